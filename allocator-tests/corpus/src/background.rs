//! The steady service that runs beside every case: requests, sessions, a full cache, start-up tables, a buffer that is
//! used again. None of its sites grows, so whatever is said of them is wrong.

use std::collections::VecDeque;
use std::hint::black_box;

use crate::departures::Departures;
use crate::random::Random;

const CACHE_ENTRIES: usize = 60;
const LOG_LINES: usize = 64;

/// The service.
#[derive(Debug)]
pub struct Background {
    random: Random,
    tables: Vec<String>,
    cache: Vec<Box<[u8]>>,
    log: VecDeque<String>,
    sessions: Departures<Session>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Session {
    user: String,
    state: Vec<u8>,
}

impl Background {
    /// Starts it.
    #[must_use]
    pub fn start(seed: u64) -> Background {
        Background {
            random: Random::new(seed ^ 0xbac6_0000),
            tables: load_tables(),
            cache: Vec::with_capacity(CACHE_ENTRIES),
            log: VecDeque::with_capacity(LOG_LINES),
            sessions: Departures::default(),
            buffer: Vec::new(),
        }
    }

    /// One epoch of its work.
    #[inline(never)]
    pub fn serve(&mut self) {
        self.sessions.begin_epoch();
        for _ in 0..self.random.poisson(8.0) {
            let request = read_request(&mut self.random);
            let answer = render(&mut self.buffer, &request, &self.tables);
            black_box(&answer);
            self.remember(answer);
            write_log(&mut self.log, &request);
        }
        for _ in 0..self.random.poisson(3.0) {
            let session = log_in(&mut self.random);
            black_box((&session.user, &session.state));
            let epochs = self.random.epochs(3.0);
            self.sessions.after(epochs, session);
        }
    }

    /// A cache that is full after some epochs; from then on each entry takes the place of any other.
    #[inline(never)]
    fn remember(&mut self, answer: Box<[u8]>) {
        if self.cache.len() < CACHE_ENTRIES {
            self.cache.push(answer);
        } else {
            let index = self.random.below(CACHE_ENTRIES);
            self.cache[index] = answer;
        }
    }
}

#[inline(never)]
fn load_tables() -> Vec<String> {
    let tables: Vec<String> = (0..40).map(|number| format!("table {number}: {:200}", number * 7)).collect();
    black_box(tables)
}

#[inline(never)]
fn read_request(random: &mut Random) -> Vec<u8> {
    let length = 200 + random.below(1800);
    black_box(vec![b'r'; length])
}

#[inline(never)]
fn render(buffer: &mut Vec<u8>, request: &[u8], tables: &[String]) -> Box<[u8]> {
    buffer.clear();
    buffer.extend_from_slice(request);
    buffer.extend_from_slice(tables[request.len() % tables.len()].as_bytes());
    black_box(buffer.as_slice().into())
}

#[inline(never)]
fn write_log(log: &mut VecDeque<String>, request: &[u8]) {
    if log.len() == LOG_LINES {
        log.pop_front();
    }
    log.push_back(black_box(format!("a request of {} bytes was served", request.len())));
}

#[inline(never)]
fn log_in(random: &mut Random) -> Session {
    let user = format!("user {}", random.below(1000));
    black_box(Session { user, state: vec![0; 1500 + random.below(2000)] })
}
