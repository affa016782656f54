//! Generated messages mean the same to `mail-parser` as they did to the generator.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use rustymail::email::{Email, MimePart, View};
use rustymail::generate::{Recipe, message};

const SEEDS: std::ops::Range<u64> = 0..600;

fn parsed(raw: Vec<u8>) -> Email {
    let mut email = Email { body: raw, ..Email::default() };
    email.parse_mime_content(&[View::Parts, View::Attachments]);
    email
}

#[test]
fn attachments_decode_to_the_bytes_that_were_encoded() {
    let (mut base64, mut quoted_printable, mut forwarded) = (0, 0, 0);
    for seed in SEEDS {
        let made = message(Recipe { seed, attachment_kib: 3 });
        let parsed = MessageParser::default().parse(&made.raw).unwrap();
        assert!(parsed.parts.iter().all(|part| !part.is_encoding_problem), "seed {seed}: an encoding problem");
        let named: Vec<_> = parsed.parts.iter().filter(|part| part.attachment_name().is_some()).collect();
        assert_eq!(named.len(), made.attachments.len(), "seed {seed}");
        for (part, expected) in named.into_iter().zip(&made.attachments) {
            assert_eq!(part.attachment_name(), Some(expected.filename.as_str()), "seed {seed}");
            let source = &made.raw[part.raw_body_offset() as usize..part.raw_end_offset() as usize];
            let data = match &part.body {
                PartType::Message(_) => source,
                _ => part.contents(),
            };
            assert!(data == expected.data, "seed {seed}: {} differs", expected.filename);
            match part.content_transfer_encoding() {
                Some("base64") => base64 += 1,
                Some("quoted-printable") => quoted_printable += 1,
                _ => forwarded += 1,
            }
        }
    }
    assert!(
        base64 > 300 && quoted_printable > 60 && forwarded > 5,
        "{base64}, {quoted_printable}, {forwarded}: too few to say"
    );
}

#[test]
fn an_email_has_the_generated_text_and_headers() {
    for seed in SEEDS {
        let made = message(Recipe { seed, attachment_kib: 1 });
        let email = parsed(made.raw);
        assert_eq!(email.text_body.as_deref(), Some(made.text.as_str()), "seed {seed}");
        assert!(
            !email.subject.is_empty() && email.from.len() == 1 && email.to.len() == 1 && email.cc.len() == 1,
            "{email:?}"
        );
        assert!(email.date.is_some_and(|date| date.starts_with("2025-01-")), "seed {seed}");
    }
}

#[test]
fn the_part_tree_holds_every_part_once() {
    fn leaves<'a>(parts: &'a [MimePart], found: &mut Vec<&'a MimePart>) -> usize {
        let depths = parts.iter().map(|part| {
            if part.children.is_empty() {
                found.push(part);
            }
            1 + leaves(&part.children, found)
        });
        depths.max().unwrap_or(0)
    }
    let mut deepest = 0;
    for seed in SEEDS {
        let email = parsed(message(Recipe { seed, attachment_kib: 1 }).raw);
        let mut found = Vec::new();
        deepest = deepest.max(leaves(&email.mime_parts, &mut found));
        let names: Vec<_> = found.iter().filter_map(|part| part.filename.as_ref()).collect();
        assert_eq!(
            names,
            email.attachments.iter().map(|attachment| &attachment.filename).collect::<Vec<_>>(),
            "seed {seed}"
        );
        let bodies = found.iter().filter(|part| part.filename.is_some()).map(|part| &part.body);
        assert!(bodies.eq(email.attachments.iter().map(|attachment| &attachment.data)), "seed {seed}");
        assert!(
            found.iter().all(|part| !part.body.is_empty() && part.source.is_empty() == part.filename.is_none()),
            "seed {seed}: an empty leaf"
        );
    }
    assert_eq!(deepest, 4, "mixed, related, alternative and text are nested");
}

#[test]
fn what_does_not_parse_has_no_parts() {
    let email = parsed(Vec::new());
    assert!(email.mime_parts.is_empty() && email.attachments.is_empty() && email.subject.is_empty());
}
