//! The load on the server: `load PORT CONNECTIONS WARM_UP REQUESTS ALONE` on the loopback address, keep-alive, a request at a
//! time on each connection. Warms up and says that it is ready; then each line that it reads is a slice: so many requests by all
//! connections at once, for throughput, and then so many by one connection alone, for latency. With more connections than
//! processors a 99th percentile is that of the kernel's queue, in which clients and server stand for a processor: in neighbouring slices of one
//! program it differs by half, and by a sixth where nobody queues. For each slice it prints a line of JSON: wall time and the
//! server's CPU time since the slice before, both without the lone part; the latencies of either part; and a checksum of all
//! answers. At the end of its input it asks the server to end. Bounded in time by each socket's time-out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;

/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(20);

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Connection {
    reader: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    fn open(port: u16) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { reader: BufReader::new(stream), line: String::new(), body: Vec::new() })
    }

    /// Sends a request and reads the whole answer's body.
    fn ask(&mut self, request: &str) -> Result<&[u8], Failure> {
        self.reader.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        let mut first = true;
        loop {
            self.line.clear();
            if self.reader.read_line(&mut self.line)? == 0 {
                return Err("the server closed the connection".into());
            }
            let line = self.line.trim_end();
            if first && !line.starts_with("HTTP/1.1 200") {
                return Err(
                    format!("the server answered '{line}' to '{}'", request.lines().next().unwrap_or("")).into()
                );
            }
            first = false;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        self.body.resize(length, 0);
        self.reader.read_exact(&mut self.body)?;
        Ok(&self.body)
    }

    fn get(&mut self, path: &str) -> Result<&[u8], Failure> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }
}

/// Request number `n` of a connection: nine of ten read a user, one replaces a note.
fn request(connection: u64, n: u64) -> String {
    if n % 10 == 9 {
        let body =
            format!(r#"{{"title":"note {n} of {connection}","lines":["first {n}","second","third {connection}"]}}"#);
        let key = format!("{connection}-{}", n % 500);
        let length = body.len();
        return format!(
            "PUT /note/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
    }
    let user = (n * 7919 + connection * 104_729) % workloads::server::USERS;
    format!("GET /user/user-{user} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

/// What the connections' threads share with the one that reads the clock.
struct Meeting {
    /// Five times a slice: when all are ready for it, when it begins, when all have their answers, when one goes on alone, and when
    /// that one has its answers.
    barrier: Barrier,
    goes_on: AtomicBool,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    /// Of all connections at once.
    crowd: Histogram<u64>,
    /// Of one connection alone.
    alone: Histogram<u64>,
    checksum: u64,
    failure: Option<Failure>,
}

impl Meeting {
    fn new(connections: u64) -> Result<Meeting, Failure> {
        Ok(Meeting {
            barrier: Barrier::new(usize::try_from(connections)? + 1),
            goes_on: AtomicBool::new(true),
            outcome: Mutex::new(Outcome { crowd: histogram()?, alone: histogram()?, checksum: 0, failure: None }),
        })
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn histogram() -> Result<Histogram<u64>, Failure> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// Requests, by one connection.
#[derive(Clone, Copy)]
struct Share {
    warm_up: u64,
    /// In a slice, beside the others.
    crowd: u64,
    /// In a slice, alone.
    alone: u64,
}

/// A connection: its warm-up, and as many slices as there are. After a failure it only keeps the others from waiting for it.
fn drive(port: u16, connection: u64, share: Share, meeting: &Meeting) {
    let mut driver = Connection::open(port).and_then(|mut open| {
        for n in 0..share.warm_up {
            open.ask(&request(connection, n))?;
        }
        Ok((open, histogram()?))
    });
    let mut next = share.warm_up;
    loop {
        meeting.barrier.wait();
        meeting.barrier.wait();
        // its partner is the store before the second wait, which the barrier's lock orders
        if !meeting.goes_on.load(Ordering::Relaxed) {
            return;
        }
        for is_alone in [false, true] {
            let numbers = next..next + if is_alone { share.alone } else { share.crowd };
            next = numbers.end;
            let done = driver.as_mut().ok().map(|(open, latencies)| slice(open, latencies, connection, numbers));
            meeting.barrier.wait();
            meeting.outcome().add(&mut driver, done, is_alone);
            if !is_alone {
                // the clocks are read
                meeting.barrier.wait();
            }
        }
    }
}

impl Outcome {
    /// Of one connection's part of a slice.
    fn add(
        &mut self,
        driver: &mut Result<(Connection, Histogram<u64>), Failure>,
        done: Option<Result<u64, Failure>>,
        is_alone: bool,
    ) {
        match (driver, done) {
            (Ok((_, latencies)), Some(Ok(checksum))) => {
                // all have the same bounds
                let _ = if is_alone { &mut self.alone } else { &mut self.crowd }.add(&*latencies);
                latencies.reset();
                self.checksum = self.checksum.wrapping_add(checksum);
            }
            (_, Some(Err(failure))) => self.failure = Some(failure),
            _ => self.failure = Some("a connection was lost".into()),
        }
    }
}

fn slice(
    open: &mut Connection,
    latencies: &mut Histogram<u64>,
    connection: u64,
    numbers: Range<u64>,
) -> Result<u64, Failure> {
    let mut checksum = 0_u64;
    for n in numbers {
        let text = request(connection, n);
        let begin = Instant::now();
        let answer = hash(open.ask(&text)?);
        latencies.record(u64::try_from(begin.elapsed().as_nanos())?)?;
        checksum = checksum.wrapping_add(answer);
    }
    Ok(checksum)
}

fn main() -> Result<(), Failure> {
    let given: Vec<u64> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [port, connections, warm_up, requests, alone] = given[..] else {
        return Err("usage: load PORT CONNECTIONS WARM_UP REQUESTS ALONE".into());
    };
    let port = u16::try_from(port)?;
    let mut control = Connection::open(port)?;
    let meeting = Meeting::new(connections)?;
    let ended = std::thread::scope(|scope| {
        for connection in 0..connections {
            let meeting = &meeting;
            let alone = if connection == 0 { alone } else { 0 };
            let share = Share { warm_up: warm_up / connections, crowd: requests / connections, alone };
            scope.spawn(move || drive(port, connection, share, meeting));
        }
        // all are warm
        meeting.barrier.wait();
        let ended = slices(&mut control, &meeting);
        meeting.goes_on.store(false, Ordering::Relaxed);
        meeting.barrier.wait();
        ended
    });
    ended?;
    control.get("/end")?;
    Ok(())
}

/// A slice for each line of the input.
fn slices(control: &mut Connection, meeting: &Meeting) -> Result<(), Failure> {
    let mut cpu_ns = || -> Result<u64, Failure> { Ok(std::str::from_utf8(control.get("/cpu")?)?.parse()?) };
    let mut before = cpu_ns()?;
    println!("{}", json!({ "ready": true }));
    for line in std::io::stdin().lines() {
        line?;
        let begin = Instant::now();
        meeting.barrier.wait();
        meeting.barrier.wait();
        let wall = begin.elapsed();
        let after = cpu_ns();
        // one goes on alone
        meeting.barrier.wait();
        meeting.barrier.wait();
        let end = cpu_ns();
        // when all are back at the beginning, all have added theirs
        meeting.barrier.wait();
        let (after, end) = (after?, end?);
        let mut outcome = meeting.outcome();
        if let Some(failure) = outcome.failure.take() {
            return Err(failure);
        }
        let answer = json!({
            "checksum": format!("{:016x}", outcome.checksum),
            "wall_ns": u64::try_from(wall.as_nanos())?,
            "cpu_ns": after - before,
            "requests": outcome.crowd.len() + outcome.alone.len(),
            "p50_ns": outcome.alone.value_at_quantile(0.5),
            "p99_ns": outcome.alone.value_at_quantile(0.99),
            "crowd_p99_ns": outcome.crowd.value_at_quantile(0.99),
        });
        println!("{answer}");
        outcome.crowd.reset();
        outcome.alone.reset();
        before = end;
    }
    Ok(())
}
