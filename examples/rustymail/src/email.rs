//! What the service makes of a fetched message: [`Email`], decoded whole, and [`LazyEmail`], decoded when it is opened.
//!
//! Here is the memory of the report. [`Email`]'s conversion copies the message, decodes every attachment, and decodes it
//! once more for the flat list, since either list owns its bodies. All of that is harmless in an email that is dropped, and
//! fatal in one that is kept (see [`crate::sync`]). Never fails: a message that does not parse has no parts.
//!
//! The functions on the report's chain are `#[inline(never)]`, so that they are frames in every build.

use async_imap::types::Fetch;
use mail_parser::{Address, Message, MessageParser, MessagePart, MimeHeaders, PartType};

/// A message, parsed.
#[derive(Debug, Default)]
pub struct Email {
    /// The folder's number for it; 0 where the server sent none.
    pub uid: u32,
    /// As the server spells them.
    pub flags: Vec<String>,
    /// Decoded.
    pub subject: String,
    /// `name <address>`, as are the next two.
    pub from: Vec<String>,
    /// Recipients.
    pub to: Vec<String>,
    /// Recipients of copies.
    pub cc: Vec<String>,
    /// RFC 3339.
    pub date: Option<String>,
    /// The first text/plain part.
    pub text_body: Option<String>,
    /// The first text/html part.
    pub html_body: Option<String>,
    /// The message as it was sent.
    pub body: Vec<u8>,
    /// The part tree; one root, or nothing if the message did not parse.
    pub mime_parts: Vec<MimePart>,
    /// The parts that have file names, in the message's order.
    pub attachments: Vec<Attachment>,
}

/// A node of the part tree.
#[derive(Debug, Default)]
pub struct MimePart {
    /// `type/subtype`.
    pub content_type: String,
    /// From Content-Disposition or Content-Type.
    pub filename: Option<String>,
    /// An attachment as it was sent, so that forwarding it need not encode it again; empty for other parts.
    pub source: Vec<u8>,
    /// Decoded; empty for a multipart.
    pub body: Vec<u8>,
    /// The parts of a multipart.
    pub children: Vec<MimePart>,
}

/// An attachment, ready to be saved.
#[derive(Debug)]
pub struct Attachment {
    /// Its name.
    pub filename: String,
    /// `type/subtype`.
    pub content_type: String,
    /// Decoded.
    pub data: Vec<u8>,
}

/// A view of a message's content that takes the decoded bodies for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// [`Email::mime_parts`].
    Parts,
    /// [`Email::attachments`].
    Attachments,
}

impl From<Fetch> for Email {
    /// Decodes everything, whether anyone will look at it or not.
    #[inline(never)]
    fn from(fetch: Fetch) -> Email {
        let body = fetch.body().map(|b| b.to_vec()).unwrap_or_default();
        let mut email = Email { uid: fetch.uid.unwrap_or_default(), flags: flags(&fetch), body, ..Email::default() };
        email.parse_mime_content(&[View::Parts, View::Attachments]);
        email
    }
}

impl Email {
    /// Fills in everything that `body` says; of the views, those asked for.
    #[inline(never)]
    pub fn parse_mime_content(&mut self, views: &[View]) {
        for &view in views {
            // a parse for each view, as each moves the decoded bodies out of its message
            let Some(message) = MessageParser::default().parse(&self.body) else { return };
            match view {
                View::Parts => {
                    self.subject = message.subject().unwrap_or_default().to_owned();
                    self.from = addresses(message.from());
                    self.to = addresses(message.to());
                    self.cc = addresses(message.cc());
                    self.date = message.date().map(|date| date.to_rfc3339());
                    self.text_body = message.body_text(0).map(|text| text.into_owned());
                    self.html_body = message.body_html(0).map(|html| html.into_owned());
                    self.mime_parts = part_tree(message, &self.body);
                }
                View::Attachments => self.attachments = attachments(message, &self.body),
            }
        }
    }
}

/// A message that is decoded when someone opens it: the report's remedy.
#[derive(Debug)]
pub struct LazyEmail {
    uid: u32,
    flags: Vec<String>,
    body: Vec<u8>,
}

impl From<Fetch> for LazyEmail {
    #[inline(never)]
    fn from(fetch: Fetch) -> LazyEmail {
        let body = fetch.body().map(|b| b.to_vec()).unwrap_or_default();
        LazyEmail { uid: fetch.uid.unwrap_or_default(), flags: flags(&fetch), body }
    }
}

impl LazyEmail {
    /// Decodes what a reader asks for.
    pub fn open(self, views: &[View]) -> Email {
        let mut email = Email { uid: self.uid, flags: self.flags, body: self.body, ..Email::default() };
        email.parse_mime_content(views);
        email
    }
}

fn flags(fetch: &Fetch) -> Vec<String> {
    fetch.flags().map(|flag| format!("{flag:?}")).collect()
}

fn addresses(header: Option<&Address<'_>>) -> Vec<String> {
    let Some(header) = header else { return Vec::new() };
    header
        .iter()
        .map(|entry| match (entry.name(), entry.address()) {
            (Some(name), Some(address)) => format!("{name} <{address}>"),
            (name, address) => name.or(address).unwrap_or_default().to_owned(),
        })
        .collect()
}

fn content_type(part: &MessagePart<'_>) -> String {
    match part.content_type() {
        Some(found) => format!("{}/{}", found.ctype(), found.subtype().unwrap_or("*")),
        None => "text/plain".to_owned(),
    }
}

/// The bytes of `raw` that `part` was parsed from, without its headers.
fn source<'a>(part: &MessagePart<'_>, raw: &'a [u8]) -> &'a [u8] {
    raw.get(part.raw_body_offset() as usize..part.raw_end_offset() as usize).unwrap_or_default()
}

/// Moves the decoded body out of its part: what the decoder allocated is what is kept. A forwarded message stays as it was sent.
fn decoded(body: PartType<'_>, source: &[u8]) -> Vec<u8> {
    match body {
        PartType::Text(text) | PartType::Html(text) => text.into_owned().into_bytes(),
        PartType::Binary(data) | PartType::InlineBinary(data) => data.into_owned(),
        PartType::Message(_) => source.to_vec(),
        PartType::Multipart(_) => Vec::new(),
    }
}

fn part_tree(message: Message<'_>, raw: &[u8]) -> Vec<MimePart> {
    let mut child_ids = Vec::with_capacity(message.parts.len());
    let mut nodes = Vec::with_capacity(message.parts.len());
    for part in message.parts {
        let mut node = MimePart {
            content_type: content_type(&part),
            filename: part.attachment_name().map(str::to_owned),
            ..MimePart::default()
        };
        if let PartType::Multipart(ids) = part.body {
            child_ids.push(ids);
        } else {
            child_ids.push(Vec::new());
            let source = source(&part, raw);
            if node.filename.is_some() {
                node.source = source.to_vec();
            }
            node.body = decoded(part.body, source);
        }
        nodes.push(Some(node));
    }
    // the parser numbers a multipart before its parts, so from the back every child is complete when it is taken
    for parent in (0..nodes.len()).rev() {
        let children = child_ids[parent].iter().filter_map(|&child| nodes.get_mut(child as usize)?.take()).collect();
        if let Some(node) = &mut nodes[parent] {
            node.children = children;
        }
    }
    nodes.into_iter().next().flatten().into_iter().collect()
}

fn attachments(message: Message<'_>, raw: &[u8]) -> Vec<Attachment> {
    let mut found = Vec::new();
    for part in message.parts {
        let Some(filename) = part.attachment_name().map(str::to_owned) else { continue };
        let (content_type, source) = (content_type(&part), source(&part, raw));
        found.push(Attachment { filename, content_type, data: decoded(part.body, source) });
    }
    found
}
