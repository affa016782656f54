//! A mail service, after the first user's: what it fetches is parsed, and one kind of what that makes is kept.

#![expect(clippy::vec_box, reason = "each message is a block of its own, as in the service that leaked")]

use std::hint::black_box;

use crate::case::{Case, Program};
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::leak(
        "base64_attach",
        "keeps decoded attachments",
        &[&[
            "decode_base64_mime",
            "parse_",
            "parse_mime_content",
            "Email::from",
            "fetch_emails",
            "sync_folder_with_limit",
            "sync_all_folders",
            "start_background_sync",
        ]],
        &["decode_base64_mime", "archive"],
        |seed, _| mail(seed, Kept::Attachments),
    ),
    Case::leak(
        "email_objects",
        "keeps whole messages",
        &[&["Email::from", "fetch_emails", "sync_folder_with_limit", "sync_all_folders", "start_background_sync"]],
        &["Email::from", "archive"],
        |seed, _| mail(seed, Kept::Messages),
    ),
    Case::leak(
        "mime_parts",
        "keeps part trees, two sites",
        &[
            &["part_headers", "parse_mime_content", "Email::from", "fetch_emails"],
            &["part_children", "parse_mime_content", "Email::from", "fetch_emails"],
        ],
        &["part_headers", "part_children", "archive"],
        |seed, _| mail(seed, Kept::Parts),
    ),
    Case::leak(
        "quoted_printable",
        "keeps decoded texts",
        &[&["decode_quoted_printable_mime", "parse_", "parse_mime_content", "Email::from", "fetch_emails"]],
        &["decode_quoted_printable_mime", "archive"],
        |seed, _| mail(seed, Kept::Texts),
    ),
];

#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Attachments,
    Messages,
    Parts,
    Texts,
}

/// What is kept, each kind in a table of its own.
#[derive(Default)]
struct Archive {
    bytes: Vec<Vec<u8>>,
    messages: Vec<Box<Email>>,
    parts: Vec<Part>,
}

/// What the server sends.
struct Fetch {
    source: Vec<u8>,
    attachment: usize,
    text: usize,
    parts: usize,
}

struct Email {
    headers: [u64; 320],
    attachment: Vec<u8>,
    text: Vec<u8>,
    parts: Vec<Part>,
}

struct Part {
    headers: Vec<u64>,
    children: Vec<u32>,
}

fn mail(seed: u64, kept: Kept) -> Program {
    let (mut random, mut store) = (Random::new(seed), Archive::default());
    Box::new(move |_| start_background_sync(&mut random, &mut store, kept))
}

#[inline(never)]
fn start_background_sync(random: &mut Random, store: &mut Archive, kept: Kept) {
    sync_all_folders(random, store, kept);
    black_box(store);
}

#[inline(never)]
fn sync_all_folders(random: &mut Random, store: &mut Archive, kept: Kept) {
    for limit in [6.0, 2.0] {
        sync_folder_with_limit(random, store, kept, limit);
    }
}

#[inline(never)]
fn sync_folder_with_limit(random: &mut Random, store: &mut Archive, kept: Kept, limit: f64) {
    for email in fetch_emails(random, limit) {
        archive(store, email, kept);
    }
}

#[inline(never)]
fn archive(store: &mut Archive, mut email: Box<Email>, kept: Kept) {
    black_box(&email.headers);
    match kept {
        Kept::Attachments => store.bytes.push(std::mem::take(&mut email.attachment)),
        Kept::Texts => store.bytes.push(std::mem::take(&mut email.text)),
        Kept::Parts => store.parts.append(&mut email.parts),
        Kept::Messages => store.messages.push(email),
    }
    let parts = store.parts.last().map(|part| (part.headers.len(), part.children.len()));
    black_box((parts, store.messages.last().map(|email| email.text.len())));
}

#[inline(never)]
fn fetch_emails(random: &mut Random, mean: f64) -> Vec<Box<Email>> {
    let mut emails = Vec::with_capacity(16);
    for _ in 0..random.poisson(mean) {
        let fetch = receive(random);
        emails.push(Box::<Email>::from(fetch));
    }
    black_box(emails)
}

#[inline(never)]
fn receive(random: &mut Random) -> Fetch {
    let attachment = 2000 + random.below(20_000);
    let source = vec![b'A'; attachment * 4 / 3 + 2000];
    black_box(Fetch { source, attachment, text: 200 + random.below(4000), parts: 1 + random.below(5) })
}

// On the box, so that the message itself is allocated here.
impl From<Fetch> for Box<Email> {
    #[inline(never)]
    fn from(fetch: Fetch) -> Box<Email> {
        Email::from_fetch(&fetch)
    }
}

impl Email {
    #[inline(always)]
    fn from_fetch(fetch: &Fetch) -> Box<Email> {
        let mut email =
            Box::new(Email { headers: [7; 320], attachment: Vec::new(), text: Vec::new(), parts: Vec::new() });
        parse_mime_content(fetch, &mut email);
        black_box(email)
    }
}

#[inline(never)]
fn parse_mime_content(fetch: &Fetch, email: &mut Email) {
    (email.attachment, email.text) = parse_(fetch);
    let mut parts = Vec::with_capacity(8);
    for number in 0..fetch.parts {
        parts.push(Part { headers: part_headers(number), children: part_children(number) });
    }
    email.parts = black_box(parts);
}

#[inline(never)]
fn part_headers(number: usize) -> Vec<u64> {
    black_box(vec![number as u64 + 1; 100])
}

#[inline(never)]
fn part_children(number: usize) -> Vec<u32> {
    black_box(vec![u32::try_from(number).unwrap_or(0) + 1; 120])
}

#[inline(never)]
fn parse_(fetch: &Fetch) -> (Vec<u8>, Vec<u8>) {
    let attachment = decode_base64_mime(&fetch.source, fetch.attachment);
    let text = decode_quoted_printable_mime(&fetch.source, fetch.text);
    black_box((attachment, text))
}

/// Four characters give three bytes.
#[inline(never)]
fn decode_base64_mime(source: &[u8], length: usize) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(length + 3);
    for quad in source.chunks_exact(4) {
        if decoded.len() + 3 > length {
            break;
        }
        let bits = quad.iter().fold(0u32, |bits, byte| (bits << 6) | u32::from(byte.wrapping_sub(b'A') & 63));
        decoded.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    black_box(decoded)
}

#[inline(never)]
fn decode_quoted_printable_mime(source: &[u8], length: usize) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(length);
    decoded.extend(source.iter().filter(|byte| **byte != b'=').take(length));
    black_box(decoded)
}
