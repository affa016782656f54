//! The load on the server: `load PORT CONNECTIONS WARM_UP REQUESTS` on the loopback address, keep-alive, a request at a time
//! on each connection. Bounded in count, and in time by each socket's time-out. Prints one line of JSON: wall time,
//! the server's CPU time, latencies, and a checksum of the answers. Asks the server to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
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

struct Outcome {
    latencies: Histogram<u64>,
    checksum: u64,
}

fn drive(port: u16, connection: u64, warm_up: u64, requests: u64, start: &Barrier) -> Result<Outcome, Failure> {
    let open = Connection::open(port).and_then(|mut open| {
        for n in 0..warm_up {
            open.ask(&request(connection, n))?;
        }
        Ok(open)
    });
    // twice: all are warm, and the server's CPU time has been asked for
    start.wait();
    start.wait();
    let mut open = open?;
    let mut outcome = Outcome { latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3)?, checksum: 0 };
    for n in warm_up..warm_up + requests {
        let text = request(connection, n);
        let begin = Instant::now();
        let answer = hash(open.ask(&text)?);
        outcome.latencies.record(u64::try_from(begin.elapsed().as_nanos())?)?;
        outcome.checksum = outcome.checksum.wrapping_add(answer);
    }
    Ok(outcome)
}

fn main() -> Result<(), Failure> {
    let given: Vec<u64> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [port, connections, warm_up, requests] = given[..] else {
        return Err("usage: load PORT CONNECTIONS WARM_UP REQUESTS".into());
    };
    let port = u16::try_from(port)?;
    let mut control = Connection::open(port)?;
    let cpu_ns =
        |control: &mut Connection| -> Result<u64, Failure> { Ok(std::str::from_utf8(control.get("/cpu")?)?.parse()?) };
    let start = Barrier::new(usize::try_from(connections)? + 1);
    let (wall, cpu, outcomes) = std::thread::scope(|scope| {
        let each = |connection| {
            let start = &start;
            scope.spawn(move || drive(port, connection, warm_up / connections, requests / connections, start))
        };
        let threads: Vec<_> = (0..connections).map(each).collect();
        start.wait();
        let before = cpu_ns(&mut control);
        let begin = Instant::now();
        start.wait();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        let wall = begin.elapsed();
        (wall, before.and_then(|before| Ok(cpu_ns(&mut control)? - before)), outcomes)
    });
    let ended = control.get("/end").map(<[u8]>::len);
    let mut all = Outcome { latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3)?, checksum: 0 };
    for outcome in outcomes {
        let outcome = outcome?;
        all.latencies.add(&outcome.latencies)?;
        all.checksum = all.checksum.wrapping_add(outcome.checksum);
    }
    ended?;
    let answer = json!({
        "checksum": format!("{:016x}", all.checksum),
        "wall_ns": u64::try_from(wall.as_nanos())?,
        "cpu_ns": cpu?,
        "requests": all.latencies.len(),
        "p50_ns": all.latencies.value_at_quantile(0.5),
        "p99_ns": all.latencies.value_at_quantile(0.99),
    });
    println!("{answer}");
    Ok(())
}
