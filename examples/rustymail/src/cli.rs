//! The command line. Promises errors that name the option, the value and what is allowed.

use std::path::PathBuf;

use clap::Parser;
use clap::error::ErrorKind;

use crate::store::StoreConfig;
use crate::sync::Mode;

/// Where there are as many emails.
const FOLDERS: u32 = 7;

/// A mail service that leaks as the RustyMail report describes.
///
/// Syncs generated mailboxes from an IMAP server of its own, in memory. Build it with `--features heap-profile` to see where
/// its memory goes.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Emails to sync, over all folders
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole::<1, 10_000_000>)]
    pub emails: u32,

    /// Folders that hold them; at most as many as emails [default: 7, or as many as emails]
    #[arg(long, value_name = "N", value_parser = whole::<1, 1000>)]
    pub folders: Option<u32>,

    /// Decides every message: the same seed, the same mail
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<0, { u32::MAX }>)]
    pub seed: u32,

    /// Typical size of an attachment; real ones are an eighth of it to four times as large
    #[arg(long, value_name = "KIB", default_value_t = 24, value_parser = whole::<1, 16_384>)]
    pub attachment_kib: u32,

    /// Parse lazily and keep nothing: what still grows is async-imap's byte pool
    #[arg(long)]
    pub fixed: bool,

    /// Record every block in the heap profile, not a sample
    #[arg(long)]
    pub exact: bool,

    /// Where the heap profile goes
    #[arg(long, value_name = "FILE", default_value = "dhat-heap.json")]
    pub output: PathBuf,
}

/// A whole number from `FIRST` to `LAST`.
fn whole<const FIRST: u32, const LAST: u32>(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|number| (FIRST..=LAST).contains(number))
        .ok_or_else(|| format!("allowed are whole numbers from {FIRST} to {LAST}"))
}

impl Args {
    /// What clap cannot check by itself: options that constrain each other.
    pub fn validate(&self) -> Result<(), clap::Error> {
        if let Some(folders) = self.folders.filter(|folders| *folders > self.emails) {
            let text = format!(
                "invalid value '{folders}' for '--folders <N>': no folder may be empty, so at most as many as '--emails {}'\n",
                self.emails
            );
            return Err(clap::Error::raw(ErrorKind::ValueValidation, text));
        }
        Ok(())
    }

    /// The mailboxes to make.
    pub fn store_config(&self) -> StoreConfig {
        StoreConfig {
            emails: self.emails,
            folders: self.folders.unwrap_or(FOLDERS.min(self.emails)),
            seed: u64::from(self.seed),
            attachment_kib: self.attachment_kib,
        }
    }

    /// The service to run.
    pub fn mode(&self) -> Mode {
        if self.fixed { Mode::Fixed } else { Mode::Leaking }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (option, value, allowed) in [
            ("--emails", "0", "1 to 10000000"),
            ("--folders", "-3", "1 to 1000"),
            ("--attachment-kib", "x", "1 to 16384"),
        ] {
            let message = Args::try_parse_from(["rustymail", &format!("{option}={value}")]).unwrap_err().to_string();
            assert!(message.contains(option) && message.contains(value) && message.contains(allowed), "{message}");
        }
        let args = Args::try_parse_from(["rustymail", "--emails=3", "--folders=4"]).unwrap();
        let message = args.validate().unwrap_err().to_string();
        assert!(
            message.contains("--folders") && message.contains("'4'") && message.contains("--emails 3"),
            "{message}"
        );
    }

    #[test]
    fn few_emails_have_as_many_folders() {
        for (emails, folders) in [("1", 1), ("5", 5), ("7", 7), ("8", 7), ("1000", 7)] {
            let args = Args::try_parse_from(["rustymail", "--emails", emails]).unwrap();
            args.validate().unwrap();
            assert_eq!(args.store_config().folders, folders, "{emails} emails");
        }
        let args = Args::try_parse_from(["rustymail", "--emails=9", "--folders=8"]).unwrap();
        args.validate().unwrap();
        assert_eq!(args.store_config().folders, 8);
    }
}
