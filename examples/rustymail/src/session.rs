//! A logged-in IMAP session of the service, and the fetch on the report's chain.
//!
//! Promises that a fetch returns every message asked for or an error: `async-imap` 0.9.0 ends its stream silently when the
//! connection breaks or the server refuses, so the messages are counted here.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use async_imap::types::Fetch;
use async_imap::{Client, Session};
use futures::StreamExt;
use tokio::io::DuplexStream;

use crate::server::{PASSWORD, USER, serve};
use crate::store::MailStore;

/// In either direction; about what a socket's buffers hold.
const STREAM_BYTES: usize = 64 * 1024;

/// Why a sync stopped.
#[derive(Debug)]
pub enum SyncError {
    /// The protocol or the connection.
    Imap(async_imap::error::Error),
    /// The server closed the connection before it greeted.
    NoGreeting,
    /// The server sent another number of messages than it was asked for.
    Incomplete {
        /// In which folder.
        folder: String,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Imap(error) => write!(f, "IMAP: {error}"),
            SyncError::NoGreeting => write!(f, "the server closed the connection before its greeting"),
            SyncError::Incomplete { folder, asked, got } => {
                write!(f, "folder {folder}: the server sent {got} of {asked} messages")
            }
        }
    }
}

impl std::error::Error for SyncError {}

impl From<async_imap::error::Error> for SyncError {
    fn from(error: async_imap::error::Error) -> SyncError {
        SyncError::Imap(error)
    }
}

impl From<std::io::Error> for SyncError {
    fn from(error: std::io::Error) -> SyncError {
        SyncError::Imap(error.into())
    }
}

/// A connection that has logged in.
#[derive(Debug)]
pub struct ImapSession {
    session: Session<DuplexStream>,
    selected: String,
}

impl ImapSession {
    /// Starts a server for `store` as a task of its own and logs in to it.
    pub async fn connect(store: &Arc<MailStore>) -> Result<ImapSession, SyncError> {
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        let store = Arc::clone(store);
        // a connection that breaks shows on the client's side, as an error or as a count that is short
        tokio::spawn(async move { serve(&store, far).await });
        ImapSession::over(near).await
    }

    /// Logs in over `stream`, which a server has just accepted.
    pub async fn over(stream: DuplexStream) -> Result<ImapSession, SyncError> {
        let mut client = Client::new(stream);
        client.read_response().await.ok_or(SyncError::NoGreeting)??;
        let session = client.login(USER, PASSWORD).await.map_err(|(error, _)| error)?;
        Ok(ImapSession { session, selected: String::new() })
    }

    /// The names of all folders.
    pub async fn list_folders(&mut self) -> Result<Vec<String>, SyncError> {
        let mut names = self.session.list(Some(""), Some("*")).await?;
        let mut folders = Vec::new();
        while let Some(name) = names.next().await {
            folders.push(name?.name().to_owned());
        }
        Ok(folders)
    }

    /// Selects `folder` and returns its UIDs from `first` on, ascending.
    pub async fn select_new(&mut self, folder: &str, first: u32) -> Result<Vec<u32>, SyncError> {
        let mailbox = self.session.select(folder).await?;
        folder.clone_into(&mut self.selected);
        let found = self.session.uid_search(format!("UID {first}:*")).await?;
        // `n:*` always includes the last message, even if its UID is below n
        let mut uids: Vec<u32> = found.into_iter().filter(|&uid| uid >= first).collect();
        uids.sort_unstable();
        if first <= 1 && uids.len() != mailbox.exists as usize {
            return Err(SyncError::Incomplete {
                folder: self.selected.clone(),
                asked: mailbox.exists as usize,
                got: uids.len(),
            });
        }
        Ok(uids)
    }

    /// Fetches the selected folder's messages `uids`, each made into an `E` as it arrives.
    pub async fn fetch_emails<E: From<Fetch>>(&mut self, uids: &[u32]) -> Result<Vec<E>, SyncError> {
        let mut set = String::new();
        for uid in uids {
            // writing to a String cannot fail
            let _ = write!(set, "{}{uid}", if set.is_empty() { "" } else { "," });
        }
        let mut fetches = self.session.uid_fetch(set, "(UID FLAGS RFC822)").await?;
        let mut emails = Vec::with_capacity(uids.len());
        while let Some(fetch) = fetches.next().await {
            emails.push(E::from(fetch?));
        }
        if emails.len() != uids.len() {
            return Err(SyncError::Incomplete { folder: self.selected.clone(), asked: uids.len(), got: emails.len() });
        }
        Ok(emails)
    }

    /// Logs out; the server ends.
    pub async fn logout(mut self) -> Result<(), SyncError> {
        Ok(self.session.logout().await?)
    }
}
