//! The scripted server and `async-imap` understand each other, refusals included.

use std::sync::Arc;

use async_imap::error::Error;
use async_imap::types::Flag;
use async_imap::{Client, Session};
use futures::{StreamExt, TryStreamExt};
use rustymail::email::LazyEmail;
use rustymail::server::{PASSWORD, USER, serve};
use rustymail::session::{ImapSession, SyncError};
use rustymail::store::{Folder, MailStore, StoreConfig};
use tokio::io::{AsyncReadExt as _, DuplexStream};

fn store() -> Arc<MailStore> {
    Arc::new(MailStore::new(StoreConfig { emails: 23, folders: 3, seed: 5, attachment_kib: 2 }))
}

async fn greeted(store: &Arc<MailStore>) -> Client<DuplexStream> {
    // small, so that messages arrive in many pieces
    let (near, far) = tokio::io::duplex(700);
    let store = Arc::clone(store);
    tokio::spawn(async move { serve(&store, far).await });
    let mut client = Client::new(near);
    client.read_response().await.unwrap().unwrap();
    client
}

async fn logged_in(store: &Arc<MailStore>) -> Session<DuplexStream> {
    greeted(store).await.login(USER, PASSWORD).await.map_err(|(error, _)| error).unwrap()
}

#[tokio::test]
async fn folders_are_listed_and_selected_with_their_sizes() {
    let store = store();
    let mut session = logged_in(&store).await;
    let names: Vec<_> = session.list(Some(""), Some("*")).await.unwrap().try_collect().await.unwrap();
    assert_eq!(names.iter().map(|name| name.name()).collect::<Vec<_>>(), ["INBOX", "Sent", "Archive"]);
    for folder in store.folders() {
        let mailbox = session.select(&folder.name).await.unwrap();
        assert_eq!((mailbox.exists, mailbox.uid_next), (folder.messages, Some(Folder::uid(folder.messages + 1))));
        let found = session.uid_search("ALL").await.unwrap();
        assert_eq!(found, (1..=folder.messages).map(Folder::uid).collect());
    }
    session.logout().await.unwrap();
}

#[tokio::test]
async fn fetches_return_the_store_s_messages_byte_for_byte() {
    let store = store();
    let mut session = logged_in(&store).await;
    session.select("INBOX").await.unwrap();
    let inbox = &store.folders()[0];
    for by_uid in [false, true] {
        let (set, items) =
            if by_uid { ("106,109:112,115:*", "(FLAGS BODY.PEEK[])") } else { ("2:4,5:*", "(UID FLAGS RFC822)") };
        let fetches: Vec<_> = match by_uid {
            true => session.uid_fetch(set, items).await.unwrap().collect().await,
            false => session.fetch(set, items).await.unwrap().collect().await,
        };
        assert_eq!(fetches.len(), inbox.messages as usize - 1, "all but the first");
        for (fetch, sequence) in fetches.into_iter().map(Result::unwrap).zip(2..) {
            assert_eq!((fetch.message, fetch.uid), (sequence, Some(Folder::uid(sequence))));
            assert_eq!(fetch.flags().any(|flag| flag == Flag::Seen), sequence % 3 != 0 || sequence % 20 == 0);
            assert!(fetch.body() == Some(&store.message(inbox, sequence).raw), "message {sequence}");
        }
    }
    let sizes: Vec<_> = session.fetch("3", "RFC822.SIZE").await.unwrap().try_collect().await.unwrap();
    assert_eq!(sizes[0].size.map(|size| size as usize), Some(store.message(inbox, 3).raw.len()));
    session.logout().await.unwrap();
}

#[tokio::test]
async fn wrong_commands_get_bad_and_impossible_ones_no() {
    let store = store();
    let (error, client) = greeted(&store).await.login(USER, "guess").await.unwrap_err();
    assert!(matches!(error, Error::No(_)), "{error}");
    let mut session = client.login(USER, PASSWORD).await.map_err(|(error, _)| error).unwrap();
    for command in ["FETCH 1 RFC822", "UID SEARCH ALL", "LOGIN \"a\" \"b\"", "FROBNICATE", "SELECT INBOX"] {
        let error = session.run_command_and_check_ok(command).await.unwrap_err();
        assert!(matches!(error, Error::Bad(_)), "{command}: {error}");
    }
    assert!(matches!(session.select("Attic").await.unwrap_err(), Error::No(_)));
    session.select("inbox").await.unwrap();
    for command in
        ["FETCH 1", "FETCH one RFC822", "FETCH 1 EVERYTHING", "UID EXPUNGE 1", "SEARCH SUBJECT x", "SEARCH UID 1:x"]
    {
        let error = session.run_command_and_check_ok(command).await.unwrap_err();
        assert!(matches!(error, Error::Bad(_)), "{command}: {error}");
    }
    // the session is as good as before
    session.noop().await.unwrap();
    assert_eq!(session.search("ALL").await.unwrap().len(), store.folders()[0].messages as usize);
}

#[tokio::test]
async fn an_endless_command_ends_the_connection() {
    let store = store();
    let mut session = logged_in(&store).await;
    assert!(session.run_command_and_check_ok(format!("NOOP {}", "x".repeat(100_000))).await.is_err());
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_fetch_is_an_error() {
    let store = store();
    let uids: Vec<u32> = (1..=store.folders()[0].messages).map(Folder::uid).collect();
    let whole = uids.len();
    // enough for the first messages, not for all
    for limit in [20_000, 1_000_000] {
        let (near, proxy) = tokio::io::duplex(4096);
        let (proxy_far, far) = tokio::io::duplex(4096);
        let served = Arc::clone(&store);
        tokio::spawn(async move { serve(&served, far).await });
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = tokio::io::split(proxy);
            let (from_server, mut to_server) = tokio::io::split(proxy_far);
            let mut from_server = from_server.take(limit);
            // both halves end with the first of the two
            tokio::select! {
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            }
        });
        let mut session = ImapSession::over(near).await.unwrap();
        assert_eq!(session.select_new("INBOX", 1).await.unwrap(), uids);
        let fetched = session.fetch_emails::<LazyEmail>(&uids).await;
        match limit {
            20_000 => assert!(
                matches!(fetched, Err(SyncError::Incomplete { asked, got, .. }) if asked == whole && got < whole)
            ),
            _ => assert_eq!(fetched.unwrap().len(), whole),
        }
    }
}
