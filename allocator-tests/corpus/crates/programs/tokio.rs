//! A service around a C-like library that opens and closes its descriptors itself: the program waits for them with an
//! `AsyncFd` on the bare number.
//!
//! The fields of `Connection` are dropped in their order, so that the library closes the descriptor first. tokio 1.49.0
//! then fails to deregister it and keeps the registration for as long as the runtime lives.

mod rounds;

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rounds::{Case, Dice};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const CONNECTIONS_A_ROUND: u64 = 130;
/// As many stay open between requests.
const IDLE_CONNECTIONS: usize = 20;

struct Connection {
    /// The library's; closes its descriptor.
    library: UnixStream,
    readiness: AsyncFd<RawFd>,
    peer: UnixStream,
}

impl Connection {
    #[inline(never)]
    fn open() -> Connection {
        let (library, peer) = UnixStream::pair().expect("two sockets");
        library.set_nonblocking(true).expect("a socket");
        let readiness = AsyncFd::with_interest(library.as_raw_fd(), Interest::READABLE).expect("a registration");
        Connection { library, readiness, peer }
    }

    #[inline(never)]
    async fn ask(&mut self, dice: &mut Dice) -> usize {
        let answer = vec![b'a'; dice.size(100, 4_000)];
        self.peer.write_all(&answer).expect("a socket's buffer holds it");
        let mut got = Vec::new();
        while got.len() < answer.len() {
            let mut ready = self.readiness.readable().await.expect("a registration");
            let mut part = [0; 1_024];
            let read = ready.try_io(|_| (&self.library).read(&mut part));
            if let Ok(count) = read {
                got.extend_from_slice(&part[..count.expect("readable")]);
            }
        }
        got.len()
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let mut idle: Vec<Connection> = Vec::new();
    let mut received = 0;
    let case = Case { name: "tokio", culprit: &["RegistrationSet::allocate"], lost_with_it: &["Connection::open"] };
    rounds::run(case, |dice| {
        runtime.block_on(async {
            for _ in 0..CONNECTIONS_A_ROUND {
                let mut connection = Connection::open();
                received += connection.ask(dice).await;
                idle.push(connection);
                if idle.len() > IDLE_CONNECTIONS {
                    idle.swap_remove(usize::try_from(dice.below(IDLE_CONNECTIONS as u64)).expect("an index"));
                }
            }
            tokio::task::yield_now().await;
        });
    });
    assert!(received > 0);
}
