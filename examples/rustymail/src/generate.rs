//! Generated mail: multipart messages as real mailboxes hold them, each a function of its seed alone.
//!
//! Promises the same bytes for the same [`Recipe`] on every machine, and returns beside the message what its attachments
//! decode to, so that a parser can be checked. Never keeps anything. Random numbers are SplitMix64 (Steele, Lea, Flood 2014).

use std::fmt::Write as _;

use crate::encode::{base64, quoted_printable};

/// What decides a message.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// Two messages of different seeds differ.
    pub seed: u64,
    /// The typical attachment; real ones are an eighth of it to four times as large.
    pub attachment_kib: u32,
}

/// A message as it goes over the wire, and what is in it.
#[derive(Debug)]
pub struct GeneratedMessage {
    /// RFC 5322 source, lines ended by CRLF.
    pub raw: Vec<u8>,
    /// In the order in which they stand in `raw`.
    pub attachments: Vec<GeneratedAttachment>,
    /// The text/plain body before it was encoded.
    pub text: String,
}

/// An attachment before it was encoded.
#[derive(Debug)]
pub struct GeneratedAttachment {
    /// As in its Content-Disposition.
    pub filename: String,
    /// What decoding must give.
    pub data: Vec<u8>,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0..`bound`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        let index = self.below(from.len() as u64);
        from[usize::try_from(index).unwrap_or_default()]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

const PEOPLE: [&str; 6] = [
    "Ada Meyer <ada.meyer@example.org>",
    "\"Okafor, Ben\" <ben@example.com>",
    "=?utf-8?Q?Chlo=C3=A9?= Durand <chloe@example.net>",
    "Dmitri Petrov <d.petrov@example.org>",
    "support@example.com",
    "Erin O'Shea <erin@example.net>",
];
const SUBJECTS: [&str; 5] =
    ["Quarterly figures", "Re: contract draft", "Photos from Friday", "Invoice", "Minutes of the meeting"];
/// Words with letters outside ASCII, so that quoted-printable has something to escape.
const WORDS: [&str; 12] = [
    "the",
    "figures",
    "caf\u{e9}",
    "for",
    "M\u{fc}nchen",
    "are",
    "attached",
    "price=42",
    "\u{2013}",
    "please",
    "check",
    "na\u{ef}ve",
];
/// Type, extension, and whether it is sent as quoted-printable text.
const ATTACHMENT_TYPES: [(&str, &str, bool); 6] = [
    ("application/pdf", "pdf", false),
    ("image/jpeg", "jpg", false),
    ("application/zip", "zip", false),
    ("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xlsx", false),
    ("application/octet-stream", "bin", false),
    ("text/csv; charset=utf-8", "csv", true),
];

/// What people forward as a message is mostly text.
const FORWARDED_SHRINK: u32 = 8;

/// Makes the message that `recipe` describes.
pub fn message(recipe: Recipe) -> GeneratedMessage {
    build(recipe, true)
}

/// A forwarded message forwards nothing itself, so that there is an end to it.
fn build(recipe: Recipe, may_forward: bool) -> GeneratedMessage {
    let mut writer =
        Writer { random: Random(recipe.seed), recipe, raw: Vec::new(), attachments: Vec::new(), boundaries: 0 };
    let text = writer.text();
    writer.headers();
    match writer.random.below(20) {
        0..=2 => writer.plain(&text),
        3..=5 => writer.alternative(&text),
        6..=18 => writer.mixed(&text, false),
        _ => writer.mixed(&text, may_forward),
    }
    GeneratedMessage { raw: writer.raw, attachments: writer.attachments, text }
}

struct Writer {
    random: Random,
    recipe: Recipe,
    raw: Vec<u8>,
    attachments: Vec<GeneratedAttachment>,
    boundaries: u32,
}

impl Writer {
    fn line(&mut self, line: &str) {
        self.raw.extend_from_slice(line.as_bytes());
        self.raw.extend_from_slice(b"\r\n");
    }

    /// Headers as two relays and a spam filter leave them, up to and without those of the content.
    fn headers(&mut self) {
        let id = self.random.next();
        let day = self.random.below(28) + 1;
        let (hour, minute, second) = (self.random.below(24), self.random.below(60), self.random.below(60));
        let date = format!("{day:02} Jan 2025 {hour:02}:{minute:02}:{second:02} +0000");
        for hop in 0..2 {
            self.line(&format!("Received: from relay{hop}.example.net (relay{hop}.example.net [192.0.2.{hop}])"));
            self.line(&format!("\tby mx.example.org (Postfix) with ESMTPS id {:012X}", id >> (8 + hop)));
            self.line(&format!("\tfor <ada.meyer@example.org>; {date}"));
        }
        self.line("DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net; s=mail;");
        let signature = self.random.bytes(48);
        let mut encoded = Vec::new();
        base64(&signature, &mut encoded);
        self.raw.extend_from_slice(b"\tb=");
        self.raw.extend_from_slice(&encoded);
        let (from, to, cc) = (self.random.pick(&PEOPLE), self.random.pick(&PEOPLE), self.random.pick(&PEOPLE));
        let subject = self.random.pick(&SUBJECTS);
        self.line(&format!("Message-ID: <{id:016x}@example.net>"));
        self.line(&format!("Date: {date}"));
        self.line(&format!("From: {from}"));
        self.line(&format!("To: {to}"));
        self.line(&format!("Cc: {cc}"));
        self.line(&format!("Subject: {subject} #{}", id % 1000));
        self.line("X-Spam-Status: No, score=-1.9 required=5.0 tests=BAYES_00,DKIM_VALID");
        self.line("MIME-Version: 1.0");
    }

    /// Ten to fifty lines.
    fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..10 + self.random.below(40) {
            for word in 0..4 + self.random.below(16) {
                text.push_str(if word == 0 { "" } else { " " });
                text.push_str(self.random.pick(&WORDS));
            }
            text.push_str("\r\n");
        }
        text
    }

    fn plain(&mut self, text: &str) {
        self.line("Content-Type: text/plain; charset=utf-8");
        self.line("Content-Transfer-Encoding: quoted-printable");
        self.line("");
        quoted_printable(text.as_bytes(), &mut self.raw);
    }

    fn html(&mut self, text: &str) {
        let mut html = String::from("<!DOCTYPE html><html><head><meta charset=\"utf-8\"></head><body>\r\n");
        for line in text.lines() {
            // writing to a String cannot fail
            let _ = write!(html, "<p style=\"margin:0;font-family:sans-serif\">{line}</p>\r\n");
        }
        html.push_str("</body></html>\r\n");
        self.line("Content-Type: text/html; charset=utf-8");
        self.line("Content-Transfer-Encoding: quoted-printable");
        self.line("");
        quoted_printable(html.as_bytes(), &mut self.raw);
    }

    /// Writes a multipart's header and returns the boundary between its parts.
    fn open_multipart(&mut self, subtype: &str) -> String {
        self.boundaries += 1;
        // the seed keeps a forwarded message's boundaries apart from its envelope's
        let boundary = format!("=_part_{}_{:016x}", self.boundaries, self.recipe.seed);
        self.line(&format!("Content-Type: multipart/{subtype}; boundary=\"{boundary}\""));
        self.line("");
        boundary
    }

    fn next_part(&mut self, boundary: &str) {
        self.line(&format!("\r\n--{boundary}"));
    }

    fn close_multipart(&mut self, boundary: &str) {
        self.line(&format!("\r\n--{boundary}--"));
    }

    fn alternative(&mut self, text: &str) {
        let boundary = self.open_multipart("alternative");
        self.next_part(&boundary);
        self.plain(text);
        self.next_part(&boundary);
        self.html(text);
        self.close_multipart(&boundary);
    }

    /// Text and HTML with an inline picture, one to four attachments, and perhaps a forwarded message.
    fn mixed(&mut self, text: &str, with_forwarded: bool) {
        let mixed = self.open_multipart("mixed");
        self.next_part(&mixed);
        let related = self.open_multipart("related");
        self.next_part(&related);
        self.alternative(text);
        self.next_part(&related);
        let logo = self.random.bytes(1800);
        self.attachment("image/png", "logo.png".to_owned(), "inline", false, logo);
        self.close_multipart(&related);
        for number in 0..1 + self.random.below(4) {
            let index = usize::try_from(self.random.below(ATTACHMENT_TYPES.len() as u64)).unwrap_or_default();
            let (content_type, extension, is_text) = ATTACHMENT_TYPES[index];
            let data = if is_text { self.text().into_bytes() } else { self.attachment_bytes() };
            self.next_part(&mixed);
            self.attachment(content_type, format!("file-{number}.{extension}"), "attachment", is_text, data);
        }
        if with_forwarded {
            let attachment_kib = (self.recipe.attachment_kib / FORWARDED_SHRINK).max(1);
            let inner = build(Recipe { seed: self.random.next(), attachment_kib }, false);
            self.next_part(&mixed);
            self.line("Content-Type: message/rfc822; name=\"forwarded.eml\"");
            self.line("Content-Disposition: attachment; filename=\"forwarded.eml\"");
            self.line("");
            self.raw.extend_from_slice(&inner.raw);
            self.attachments.push(GeneratedAttachment { filename: "forwarded.eml".to_owned(), data: inner.raw });
        }
        self.close_multipart(&mixed);
    }

    /// An eighth of the typical size up to four times, each octave as likely as the next.
    fn attachment_bytes(&mut self) -> Vec<u8> {
        let octave = 128u64 << self.random.below(5);
        let size = u64::from(self.recipe.attachment_kib) * (octave + self.random.below(octave));
        self.random.bytes(usize::try_from(size).unwrap_or(usize::MAX))
    }

    fn attachment(&mut self, content_type: &str, filename: String, disposition: &str, is_text: bool, data: Vec<u8>) {
        self.line(&format!("Content-Type: {content_type}; name=\"{filename}\""));
        self.line(&format!("Content-Disposition: {disposition}; filename=\"{filename}\""));
        self.line(&format!("Content-Transfer-Encoding: {}", if is_text { "quoted-printable" } else { "base64" }));
        self.line("");
        let encode = if is_text { quoted_printable } else { base64 };
        encode(&data, &mut self.raw);
        self.attachments.push(GeneratedAttachment { filename, data });
    }
}
