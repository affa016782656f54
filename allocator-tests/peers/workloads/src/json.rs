//! A record of JSON parsed into a tree of values, and dropped.

use std::sync::Arc;

use serde_json::Value;

use crate::Workload;
use crate::turns::{Part, Turns, share};

pub(crate) struct Json {
    threads: usize,
    records: Vec<String>,
}

impl Json {
    pub(crate) fn new(threads: usize) -> Json {
        let record = |n: u64| {
            format!(
                r#"{{"id":{n},"route":"/api/v1/items/{n}","user":{{"name":"user-{n}","mail":"user{n}@example.org","roles":["reader","writer"]}},"values":[{n},1.5,2,3,4,null,true],"tags":["a{n}","b","c"],"note":"line one\nline {n}"}}"#
            )
        };
        Json { threads, records: (0..64).map(record).collect() }
    }
}

impl Workload for Json {
    fn run(&mut self, turns: &Arc<Turns>) -> u64 {
        let records = &self.records;
        share(self.threads, turns, |_| {
            |part: &Part| {
                let mut sum = 0_u64;
                for n in part.operations.clone() {
                    let text = &records[(n % 64) as usize];
                    let value: Value = serde_json::from_str(text).expect("a record of ours");
                    let name = value["user"]["name"].as_str().map_or(0, str::len) as u64;
                    sum = sum.wrapping_add(value["id"].as_u64().unwrap_or(0) + name);
                }
                sum
            }
        })
    }
}
