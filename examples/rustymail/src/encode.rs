//! The two content transfer encodings of mail: base64 and quoted-printable (RFC 2045, sections 6.7 and 6.8).
//!
//! Promises lines of at most 76 characters, ended by CRLF, and that any conforming decoder gives the input back. Never
//! validates its input: both encodings take any bytes.

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// RFC 2045: no encoded line may be longer.
const LINE_CHARS: usize = 76;
/// Three bytes become four characters, so this many bytes fill a line.
const BASE64_LINE_BYTES: usize = LINE_CHARS / 4 * 3;

/// Appends `data` to `out` as base64.
pub fn base64(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len().div_ceil(BASE64_LINE_BYTES) * (LINE_CHARS + 2));
    for line in data.chunks(BASE64_LINE_BYTES) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
            for position in 0..4 {
                // n bytes make n + 1 characters; padding fills the group
                let is_padding = position > group.len();
                let index = (bits >> (18 - 6 * position)) as usize & 63;
                out.push(if is_padding { b'=' } else { BASE64[index] });
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `text` to `out` as quoted-printable; CRLF in `text` stays a line break.
pub fn quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    let mut line_chars = 0;
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        if rest.starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            line_chars = 0;
            rest = &rest[2..];
            continue;
        }
        // a space before a line break would be lost on the way
        let is_trailing_space = matches!(byte, b' ' | b'\t') && (tail.is_empty() || tail.starts_with(b"\r\n"));
        let is_literal = matches!(byte, b' '..=b'~' | b'\t') && *byte != b'=' && !is_trailing_space;
        let width = if is_literal { 1 } else { 3 };
        // one character stays free for the soft break's `=`
        if line_chars + width > LINE_CHARS - 1 {
            out.extend_from_slice(b"=\r\n");
            line_chars = 0;
        }
        if is_literal {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        line_chars += width;
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encoder: fn(&[u8], &mut Vec<u8>), data: &[u8]) -> String {
        let mut out = Vec::new();
        encoder(data, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn base64_pads_as_the_rfc_says() {
        // RFC 4648, section 10
        for (data, expected) in
            [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encoded(base64, data.as_bytes()), format!("{expected}\r\n"));
        }
        assert_eq!(encoded(base64, b""), "");
    }

    #[test]
    fn quoted_printable_escapes_what_must_be_escaped() {
        assert_eq!(encoded(quoted_printable, "a=b \u{e9}\r\nend ".as_bytes()), "a=3Db =C3=A9\r\nend=20");
    }

    #[test]
    fn no_line_is_longer_than_the_rfc_allows() {
        let data: Vec<u8> = (0..=255u8).cycle().take(10_000).collect();
        for encoder in [base64, quoted_printable] {
            let text = encoded(encoder, &data);
            assert!(text.split("\r\n").all(|line| line.len() <= LINE_CHARS), "a line over {LINE_CHARS} characters");
        }
    }
}
