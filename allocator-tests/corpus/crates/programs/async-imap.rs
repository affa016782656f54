//! A mail client that polls one folder: each round it fetches the newest messages and keeps the headers of the last few.
//!
//! async-imap 0.9.0 takes a fresh buffer from byte-pool 0.2.4 for each response; that pool reuses a buffer only where the
//! one it looks at has exactly the size asked for, and keeps all the others.

mod rounds;

use std::collections::VecDeque;

use async_imap::types::Fetch;
use async_imap::{Client, Session};
use futures::StreamExt;
use rounds::{Case, Dice};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

const FETCHES_A_ROUND: u64 = 8;
const KEPT_HEADERS: usize = 100;
const STREAM_BYTES: usize = 64 * 1024;

/// As much of a server as the client below needs: a message's number is its size in bytes.
async fn serve(stream: DuplexStream) -> std::io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"* OK ready\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let (tag, command) = line.split_once(' ').unwrap_or((&line, ""));
        if command.starts_with("SELECT") {
            writer.write_all(b"* 9 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1] valid\r\n").await?;
        }
        if let Some(rest) = command.strip_prefix("UID FETCH ") {
            let uid = rest.split(' ').next().unwrap_or("");
            let message = message(uid.parse().unwrap_or(0));
            let head = format!("* 1 FETCH (UID {uid} FLAGS (\\Seen) BODY[] {{{}}}\r\n", message.len());
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(&message).await?;
            writer.write_all(b")\r\n").await?;
        }
        writer.write_all(format!("{tag} OK done\r\n").as_bytes()).await?;
    }
    Ok(())
}

fn message(bytes: usize) -> Vec<u8> {
    let mut message = b"Subject: weekly numbers\r\nFrom: ada@example.org\r\n\r\n".to_vec();
    message.resize(message.len() + bytes, b'm');
    message
}

/// What the client keeps of a message.
struct Header(String);

impl From<Fetch> for Header {
    #[inline(never)]
    fn from(fetch: Fetch) -> Header {
        let body = fetch.body().expect("a body was asked for");
        let end = body.windows(4).position(|four| four == b"\r\n\r\n").expect("headers end");
        Header(String::from_utf8_lossy(&body[..end]).into_owned())
    }
}

#[inline(never)]
async fn connect() -> Session<DuplexStream> {
    let (near, far) = tokio::io::duplex(STREAM_BYTES);
    tokio::spawn(serve(far));
    let mut client = Client::new(near);
    client.read_response().await.expect("a greeting").expect("a greeting");
    let mut session = client.login("ada", "secret").await.map_err(|(error, _)| error).expect("logged in");
    session.select("INBOX").await.expect("selected");
    session
}

#[inline(never)]
async fn fetch_emails(session: &mut Session<DuplexStream>, kept: &mut VecDeque<Header>, dice: &mut Dice) {
    for _ in 0..FETCHES_A_ROUND {
        let uid = dice.size(8_000, 30_000).to_string();
        let mut fetches = session.uid_fetch(uid, "(UID FLAGS BODY[])").await.expect("a stream");
        while let Some(fetch) = fetches.next().await {
            kept.push_back(Header::from(fetch.expect("a message")));
        }
    }
    while kept.len() > KEPT_HEADERS {
        kept.pop_front();
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut session = runtime.block_on(connect());
    let mut kept = VecDeque::new();
    let culprit = &["byte_pool::", "async_imap::imap_stream::Buffer"];
    let case = Case { name: "async-imap", culprit, lost_with_it: &["async_imap::imap_stream"] };
    rounds::run(case, |dice| runtime.block_on(fetch_emails(&mut session, &mut kept, dice)));
    assert!(kept.len() == KEPT_HEADERS && kept.iter().all(|header| header.0.starts_with("Subject: ")));
}
