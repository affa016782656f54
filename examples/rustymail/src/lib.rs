//! RustyMail: the mail service of a published leak report, small enough to run in seconds.
//!
//! It syncs mailboxes over real `async-imap` from a scripted IMAP server in its own process, parses the messages with real
//! `mail-parser`, and leaks as the report says: every email is kept for ever, attachments decoded. `README.md` has the
//! report's sites beside those found here; `--fixed` is the report's remedy.
//!
//! The way of a message: [`store`] says what a mailbox holds, [`generate`] makes the message from its seed, [`server`]
//! sends it, [`session`] fetches it, [`email`] parses it, [`cache`] counts it, and [`sync`] keeps it (the leak).

pub mod cache;
pub mod cli;
pub mod email;
pub mod encode;
pub mod generate;
pub mod progress;
pub mod server;
pub mod session;
pub mod store;
pub mod sync;
