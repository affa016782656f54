//! The stand-in for the report's database cache: takes what would be a row and keeps the sums alone.
//!
//! Promises the same [`Totals`] for the same mail, however it was parsed and in whichever order it came: the proof that the
//! leaking and the fixed service did the same work. Never keeps an email or a part of one.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::email::Email;

/// The work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages synced.
    pub emails: u64,
    /// Their sizes as sent.
    pub raw_bytes: u64,
    /// Parts with file names.
    pub attachments: u64,
    /// Their sizes, decoded.
    pub attachment_bytes: u64,
    /// Over every attachment's name and decoded bytes.
    pub checksum: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { emails, raw_bytes, attachments, attachment_bytes, checksum } = self;
        write!(
            f,
            "{emails} emails ({raw_bytes} bytes), {attachments} attachments ({attachment_bytes} bytes decoded), checksum {checksum:016x}"
        )
    }
}

/// Counts emails.
#[derive(Debug, Default)]
pub struct CacheService {
    totals: Mutex<Totals>,
}

impl CacheService {
    /// Caches an email's metadata.
    pub fn cache_email(&self, email: &Email) {
        let mut row = Totals { emails: 1, raw_bytes: email.body.len() as u64, ..Totals::default() };
        for attachment in &email.attachments {
            row.attachments += 1;
            row.attachment_bytes += attachment.data.len() as u64;
            row.checksum =
                row.checksum.wrapping_add(fnv1a(fnv1a(FNV_OFFSET, attachment.filename.as_bytes()), &attachment.data));
        }
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.emails += row.emails;
        totals.raw_bytes += row.raw_bytes;
        totals.attachments += row.attachments;
        totals.attachment_bytes += row.attachment_bytes;
        // a sum, so that the order of folders does not matter
        totals.checksum = totals.checksum.wrapping_add(row.checksum);
    }

    /// The sums so far.
    pub fn totals(&self) -> Totals {
        *self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a, 64 bits (RFC 9923).
fn fnv1a(state: u64, data: &[u8]) -> u64 {
    data.iter().fold(state, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}
