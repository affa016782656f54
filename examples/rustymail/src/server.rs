//! The scripted IMAP server: as much of RFC 3501 as a mail client's sync needs, over any byte stream.
//!
//! Promises to answer every command line with exactly one tagged response: BAD to what it does not know or what is not
//! allowed in the session's state, NO to what it refuses. Reads commands of at most `MAX_COMMAND_BYTES`. Never keeps a
//! message: each is generated as it is sent.

use std::fmt::Write as _;
use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, WriteHalf};

use crate::store::{Folder, MailStore};

/// The one account.
pub const USER: &str = "ada.meyer@example.org";
/// Its password.
pub const PASSWORD: &str = "correct horse";

/// Longer than any command of a client that fetches some hundred UIDs at a time; RFC 7162 asks for 8,192 octets.
const MAX_COMMAND_BYTES: u64 = 16 * 1024;

/// What goes wrong with one command; the text is the response's.
enum Refusal {
    /// A protocol error: unknown command, bad arguments, wrong state.
    Bad(&'static str),
    /// A well-formed command that fails.
    No(&'static str),
}

/// Serves one client until it logs out or hangs up.
pub async fn serve<S: AsyncRead + AsyncWrite>(store: &MailStore, stream: S) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::new(reader);
    let mut connection = Connection { store, writer, authenticated: false, selected: None };
    connection.send("* OK [CAPABILITY IMAP4rev1] rustymail's scripted server is ready\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_COMMAND_BYTES).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if !line.ends_with('\n') {
            return connection.send("* BYE command too long\r\n").await;
        }
        let (tag, command) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        let response = match connection.execute(command).await? {
            Ok(text) => format!("{tag} OK {text}\r\n"),
            Err(Refusal::Bad(text)) => format!("{tag} BAD {text}\r\n"),
            Err(Refusal::No(text)) => format!("{tag} NO {text}\r\n"),
        };
        connection.send(&response).await?;
        if command.eq_ignore_ascii_case("LOGOUT") {
            return connection.writer.shutdown().await;
        }
    }
}

struct Connection<'a, S> {
    store: &'a MailStore,
    writer: WriteHalf<S>,
    authenticated: bool,
    selected: Option<&'a Folder>,
}

impl<S: AsyncRead + AsyncWrite> Connection<'_, S> {
    async fn send(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_all(text.as_bytes()).await
    }

    /// Sends the untagged responses; the value is the text of the tagged one.
    async fn execute(&mut self, command: &str) -> io::Result<Result<&'static str, Refusal>> {
        let (name, arguments) = command.split_once(' ').unwrap_or((command, ""));
        let name = name.to_ascii_uppercase();
        match (name.as_str(), self.authenticated, self.selected) {
            ("CAPABILITY", ..) => self.send("* CAPABILITY IMAP4rev1\r\n").await.map(|()| Ok("capabilities listed")),
            ("NOOP", ..) => Ok(Ok("nothing done")),
            ("LOGOUT", ..) => self.send("* BYE see you\r\n").await.map(|()| Ok("logged out")),
            ("LOGIN", false, _) => Ok(self.login(arguments)),
            ("LOGIN", true, _) => Ok(Err(Refusal::Bad("already logged in"))),
            ("LIST" | "SELECT" | "EXAMINE" | "SEARCH" | "FETCH" | "UID", false, _) => {
                Ok(Err(Refusal::Bad("log in first")))
            }
            ("LIST", ..) => self.list().await,
            ("SELECT" | "EXAMINE", ..) => self.select(arguments).await,
            ("SEARCH" | "FETCH" | "UID", _, None) => Ok(Err(Refusal::Bad("select a mailbox first"))),
            ("SEARCH", _, Some(folder)) => self.search(folder, arguments, false).await,
            ("FETCH", _, Some(folder)) => self.fetch(folder, arguments, false).await,
            ("UID", _, Some(folder)) => match arguments.split_once(' ') {
                Some((verb, rest)) if verb.eq_ignore_ascii_case("SEARCH") => self.search(folder, rest, true).await,
                Some((verb, rest)) if verb.eq_ignore_ascii_case("FETCH") => self.fetch(folder, rest, true).await,
                _ => Ok(Err(Refusal::Bad("after UID: SEARCH or FETCH"))),
            },
            _ => Ok(Err(Refusal::Bad("unknown command"))),
        }
    }

    fn login(&mut self, arguments: &str) -> Result<&'static str, Refusal> {
        let mut strings = Vec::new();
        let mut rest = arguments;
        while let Some((string, tail)) = quoted(rest) {
            strings.push(string);
            rest = tail.trim_start();
        }
        match strings.as_slice() {
            [USER, PASSWORD] => {
                self.authenticated = true;
                Ok("logged in")
            }
            [_, _] => Err(Refusal::No("wrong user or password")),
            _ => Err(Refusal::Bad("LOGIN takes two quoted strings")),
        }
    }

    /// Every folder, whatever the pattern: the only clients here ask for all.
    async fn list(&mut self) -> io::Result<Result<&'static str, Refusal>> {
        let mut text = String::new();
        for folder in self.store.folders() {
            // writing to a String cannot fail
            let _ = write!(text, "* LIST (\\HasNoChildren) \"/\" \"{}\"\r\n", folder.name);
        }
        self.send(&text).await?;
        Ok(Ok("listed"))
    }

    async fn select(&mut self, arguments: &str) -> io::Result<Result<&'static str, Refusal>> {
        self.selected = None;
        let Some((name, _)) = quoted(arguments) else { return Ok(Err(Refusal::Bad("SELECT takes a quoted mailbox"))) };
        let Some(folder) = self.store.folder(name) else { return Ok(Err(Refusal::No("no such mailbox"))) };
        let (exists, next) = (folder.messages, Folder::uid(folder.messages + 1));
        self.send(&format!(
            "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n* {exists} EXISTS\r\n* 0 RECENT\r\n\
             * OK [UIDVALIDITY 1737936000] valid\r\n* OK [UIDNEXT {next}] next\r\n"
        ))
        .await?;
        self.selected = Some(folder);
        Ok(Ok("[READ-WRITE] selected"))
    }

    /// SEARCH ALL, or by UID set.
    async fn search(
        &mut self,
        folder: &Folder,
        query: &str,
        by_uid: bool,
    ) -> io::Result<Result<&'static str, Refusal>> {
        let wanted = match query.split_once(' ') {
            None if query.eq_ignore_ascii_case("ALL") => NumberSet::all(),
            Some((key, set)) if key.eq_ignore_ascii_case("UID") => {
                match NumberSet::parse(set, Folder::uid(folder.messages)) {
                    Some(set) => set,
                    None => return Ok(Err(Refusal::Bad("not a set of UIDs"))),
                }
            }
            _ => return Ok(Err(Refusal::Bad("SEARCH knows ALL and UID"))),
        };
        let mut text = String::from("* SEARCH");
        for sequence in (1..=folder.messages).filter(|&sequence| wanted.contains(Folder::uid(sequence))) {
            let _ = write!(text, " {}", if by_uid { Folder::uid(sequence) } else { sequence });
        }
        text.push_str("\r\n");
        self.send(&text).await?;
        Ok(Ok("searched"))
    }

    async fn fetch(
        &mut self,
        folder: &Folder,
        arguments: &str,
        by_uid: bool,
    ) -> io::Result<Result<&'static str, Refusal>> {
        let largest = if by_uid { Folder::uid(folder.messages) } else { folder.messages };
        let Some((set, items)) = arguments.split_once(' ') else {
            return Ok(Err(Refusal::Bad("FETCH takes a set and items")));
        };
        let Some(set) = NumberSet::parse(set, largest) else { return Ok(Err(Refusal::Bad("not a set of numbers"))) };
        let items = items.trim_start_matches('(').trim_end_matches(')').to_ascii_uppercase();
        let items: Vec<&str> = items.split(' ').collect();
        if !items
            .iter()
            .all(|item| matches!(*item, "UID" | "FLAGS" | "RFC822.SIZE" | "RFC822" | "BODY[]" | "BODY.PEEK[]"))
        {
            return Ok(Err(Refusal::Bad("FETCH knows UID, FLAGS, RFC822.SIZE, RFC822 and BODY[]")));
        }
        for sequence in 1..=folder.messages {
            let uid = Folder::uid(sequence);
            if set.contains(if by_uid { uid } else { sequence }) {
                self.send_message(folder, sequence, &items).await?;
            }
        }
        Ok(Ok("fetched"))
    }

    async fn send_message(&mut self, folder: &Folder, sequence: u32, items: &[&str]) -> io::Result<()> {
        let raw = self.store.message(folder, sequence).raw;
        // a UID FETCH returns the UID whether asked for or not (RFC 3501, section 6.4.8)
        let mut head = format!("* {sequence} FETCH (UID {}", Folder::uid(sequence));
        if items.contains(&"FLAGS") {
            let _ = write!(head, " FLAGS ({})", MailStore::flags(sequence));
        }
        if items.contains(&"RFC822.SIZE") {
            let _ = write!(head, " RFC822.SIZE {}", raw.len());
        }
        let body = items.iter().find(|item| matches!(**item, "RFC822" | "BODY[]" | "BODY.PEEK[]"));
        if let Some(item) = body {
            let _ = write!(head, " {} {{{}}}\r\n", item.replace(".PEEK", ""), raw.len());
        }
        self.send(&head).await?;
        if body.is_some() {
            self.writer.write_all(&raw).await?;
        }
        self.send(")\r\n").await
    }
}

/// The quoted string at the head of `text`, and what follows it. Nothing here needs escapes.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('"')?.split_once('"')
}

/// An IMAP sequence set: numbers and ranges, `*` for the largest number in use.
struct NumberSet(Vec<(u32, u32)>);

impl NumberSet {
    fn all() -> NumberSet {
        NumberSet(vec![(0, u32::MAX)])
    }

    fn parse(text: &str, largest: u32) -> Option<NumberSet> {
        let number = |text: &str| if text == "*" { Some(largest) } else { text.parse().ok() };
        let range = |item: &str| {
            let (first, last) = item.split_once(':').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            // `9:*` in a mailbox whose largest number is 5 means 5:9
            Some((first.min(last), first.max(last)))
        };
        text.split(',').map(range).collect::<Option<Vec<_>>>().map(NumberSet)
    }

    fn contains(&self, number: u32) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&number))
    }
}
