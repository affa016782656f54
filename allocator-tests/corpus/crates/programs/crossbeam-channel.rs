//! A game server's sessions: each has a mailbox, and what it cannot do at once it posts to itself for later. A session that
//! ends drops its Receiver; what is queued there holds the Senders.
//!
//! crossbeam-channel 0.5.0 drops what is queued with the last Sender alone: these never go, nor the blocks of the queue.

mod rounds;

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, unbounded};
use rounds::{Case, Dice};

const SESSIONS: usize = 60;
const ENDING_A_ROUND: usize = 12;
const MESSAGES_A_ROUND: u64 = 1_200;

enum Message {
    /// Something happened.
    Event(Vec<u8>),
    /// Done later; the answer goes to whoever asked.
    Later { work: Vec<u8>, answer_to: Sender<Message> },
}

struct Session {
    mailbox: Receiver<Message>,
    address: Sender<Message>,
    handled_bytes: usize,
}

impl Session {
    #[inline(never)]
    fn open() -> Session {
        let (address, mailbox) = unbounded();
        Session { mailbox, address, handled_bytes: 0 }
    }

    #[inline(never)]
    fn post(&self, dice: &mut Dice) {
        let event = vec![1; dice.size(40, 400)];
        self.address.send(Message::Event(event)).expect("the session is open");
        if dice.below(4) == 0 {
            let work = vec![2; dice.size(100, 1_500)];
            let later = Message::Later { work, answer_to: self.address.clone() };
            self.address.send(later).expect("the session is open");
        }
    }

    /// Handles all but the newest few: a session is always a little behind.
    #[inline(never)]
    fn handle(&mut self) {
        while self.mailbox.len() > 6 {
            match self.mailbox.try_recv().expect("a message is there") {
                Message::Event(event) => self.handled_bytes += event.len(),
                Message::Later { work, answer_to } => {
                    self.handled_bytes += work.len();
                    answer_to.send(Message::Event(vec![3; 16])).expect("the session is open");
                }
            }
        }
    }
}

fn main() {
    let mut sessions: VecDeque<Session> = (0..SESSIONS).map(|_| Session::open()).collect();
    let mut handled_bytes = 0;
    let case = Case {
        name: "crossbeam-channel",
        culprit: &["crossbeam_channel::flavors::list"],
        lost_with_it: &["Session::open", "Session::post", "Session::handle"],
    };
    rounds::run(case, |dice| {
        for _ in 0..MESSAGES_A_ROUND {
            let chosen = usize::try_from(dice.below(SESSIONS as u64)).expect("an index");
            sessions[chosen].post(dice);
            sessions[chosen].handle();
        }
        for _ in 0..ENDING_A_ROUND {
            handled_bytes += sessions.pop_front().expect("a session").handled_bytes;
            sessions.push_back(Session::open());
        }
    });
    assert!(handled_bytes > 0);
}
