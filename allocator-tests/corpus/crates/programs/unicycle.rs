//! A client of a replicated store that asks three replicas at once and takes the first answer: the set of requests is
//! dropped with the other two pending.
//!
//! A request keeps the waker that its answer is to wake. unicycle 0.10.1 frees a dropped set's tasks only where nobody
//! holds their wakers, so that such a task, with its request, holds itself.

mod rounds;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rounds::{Case, Dice};
use unicycle::FuturesUnordered;

const READS_A_ROUND: u64 = 60;
const RECENT_ANSWERS: usize = 200;

/// A request under way, to one replica.
struct Request {
    query: Rc<[u8]>,
    /// Where the head of the answer arrives.
    head: [u8; 512],
    /// After so many polls the answer is there.
    answers_after: u64,
    waker: Option<Waker>,
    network: Rc<Network>,
}

/// Wakes whoever waits; the answers themselves are made where they arrive.
#[derive(Default)]
struct Network {
    waiting: RefCell<Vec<Waker>>,
}

impl Network {
    fn deliver(&self) {
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

impl Future for Request {
    type Output = Vec<u8>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        if self.answers_after == 0 {
            return Poll::Ready(self.answer());
        }
        self.answers_after -= 1;
        let waker = context.waker().clone();
        self.network.waiting.borrow_mut().push(waker.clone());
        self.waker = Some(waker);
        Poll::Pending
    }
}

impl Request {
    fn new(query: &Rc<[u8]>, network: &Rc<Network>, dice: &mut Dice) -> Request {
        let (query, network) = (Rc::clone(query), Rc::clone(network));
        Request { query, head: [0; 512], answers_after: dice.below(5), waker: None, network }
    }

    #[inline(never)]
    fn answer(&mut self) -> Vec<u8> {
        self.head.fill(self.query[0]);
        [&self.head[..], &self.query.repeat(4)].concat()
    }
}

#[inline(never)]
async fn read_hedged(network: &Rc<Network>, dice: &mut Dice) -> Vec<u8> {
    let mut replicas = FuturesUnordered::new();
    let query: Rc<[u8]> = vec![b'q'; dice.size(60, 300)].into();
    for _ in 0..3 {
        replicas.push(Request::new(&query, network, dice));
    }
    let deliver = std::future::poll_fn(|context| {
        network.deliver();
        context.waker().wake_by_ref();
        Pin::new(&mut replicas).poll_next_answer(context)
    });
    deliver.await
}

/// One step of the set.
trait NextAnswer {
    fn poll_next_answer(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u8>>;
}

impl NextAnswer for FuturesUnordered<Request> {
    fn poll_next_answer(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u8>> {
        let mut next = self.next();
        Pin::new(&mut next).poll(context).map(|answer| answer.expect("three are asked"))
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let network = Rc::new(Network::default());
    let mut recent: VecDeque<Vec<u8>> = VecDeque::new();
    let case = Case { name: "unicycle", culprit: &["unicycle::"], lost_with_it: &["read_hedged"] };
    rounds::run(case, |dice| {
        runtime.block_on(async {
            for _ in 0..READS_A_ROUND {
                recent.push_back(read_hedged(&network, dice).await);
                if recent.len() > RECENT_ANSWERS {
                    recent.pop_front();
                }
            }
        });
        network.deliver();
    });
    assert!(recent.len() == RECENT_ANSWERS);
}
