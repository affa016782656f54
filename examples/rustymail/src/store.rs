//! What the server holds: folders of messages that are made anew whenever one is asked for.
//!
//! Promises that a store of the same [`StoreConfig`] holds the same messages, and never holds a message's bytes: a mailbox
//! of a million messages costs nothing until it is read, so nothing of the server shows in the profile.

use crate::generate::{GeneratedMessage, Recipe, message};

/// How large a store is.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// Over all folders.
    pub emails: u32,
    /// At least 1, at most `emails`.
    pub folders: u32,
    /// Decides every message.
    pub seed: u64,
    /// The typical attachment.
    pub attachment_kib: u32,
}

/// A mailbox on the server.
#[derive(Debug)]
pub struct Folder {
    /// As in LIST.
    pub name: String,
    /// Sequence numbers are 1 to this.
    pub messages: u32,
    /// Messages of earlier folders: makes each message's seed its own.
    offset: u32,
}

impl Folder {
    /// UIDs ascend with gaps, as those of mailboxes from which mail was deleted.
    pub fn uid(sequence: u32) -> u32 {
        100 + 3 * sequence
    }
}

/// All that the server can send.
#[derive(Debug)]
pub struct MailStore {
    config: StoreConfig,
    folders: Vec<Folder>,
}

const NAMES: [&str; 7] = ["INBOX", "Sent", "Archive", "Work", "Receipts", "Newsletters", "Drafts"];

impl MailStore {
    /// Four fifths of what is left to each folder in turn, about as in the report (328, 50, 16, 7, 3, 2 and 1 emails).
    pub fn new(config: StoreConfig) -> MailStore {
        let mut folders = Vec::new();
        let mut offset = 0;
        for index in 0..config.folders {
            let left = config.emails - offset;
            let later_folders = config.folders - index - 1;
            let messages = if later_folders == 0 { left } else { (left - left / 5).min(left - later_folders) };
            let name =
                NAMES.get(index as usize).map_or_else(|| format!("Folder {}", index + 1), |&name| name.to_owned());
            folders.push(Folder { name, messages, offset });
            offset += messages;
        }
        MailStore { config, folders }
    }

    /// In the order of LIST.
    pub fn folders(&self) -> &[Folder] {
        &self.folders
    }

    /// The folder of this name; INBOX in any case (RFC 3501, section 5.1).
    pub fn folder(&self, name: &str) -> Option<&Folder> {
        self.folders
            .iter()
            .find(|folder| folder.name == name || (folder.name == "INBOX" && name.eq_ignore_ascii_case("INBOX")))
    }

    /// Message `sequence` (from 1) of `folder`.
    pub fn message(&self, folder: &Folder, sequence: u32) -> GeneratedMessage {
        let number = u64::from(folder.offset) + u64::from(sequence);
        let seed = self.config.seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93);
        message(Recipe { seed, attachment_kib: self.config.attachment_kib })
    }

    /// A third of the messages is unread, one in twenty flagged.
    pub fn flags(sequence: u32) -> &'static str {
        match (sequence % 3, sequence % 20) {
            (_, 0) => "\\Seen \\Flagged",
            (0, _) => "",
            _ => "\\Seen",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_email_is_in_one_folder_and_no_folder_is_empty() {
        for emails in 1..60 {
            for folders in 1..=emails.min(12) {
                let store = MailStore::new(StoreConfig { emails, folders, seed: 1, attachment_kib: 1 });
                assert_eq!(store.folders().len(), folders as usize);
                assert_eq!(store.folders().iter().map(|folder| folder.messages).sum::<u32>(), emails);
                assert!(store.folders().iter().all(|folder| folder.messages > 0), "{emails} emails, {folders} folders");
            }
        }
    }

    #[test]
    fn messages_are_the_same_each_time_and_differ_from_one_another() {
        let store = MailStore::new(StoreConfig { emails: 20, folders: 2, seed: 7, attachment_kib: 1 });
        let [inbox, sent] = store.folders() else { panic!("two folders") };
        assert_eq!(store.message(inbox, 3).raw, store.message(inbox, 3).raw);
        assert_ne!(store.message(inbox, 3).raw, store.message(inbox, 4).raw);
        assert_ne!(store.message(inbox, 1).raw, store.message(sent, 1).raw);
    }
}
