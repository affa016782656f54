//! Streaks: applied at once, they leave what their records leave one by one, and a dead writer's file tells which it was.

use super::*;
use crate::store::attribution::Attribution;
use crate::store::epoch::end_epoch;
use crate::store::exact::AppliedExactly;
use crate::store::observer::{Applied, Observer};
use crate::store::picture::Life;
use crate::store::reader;
use crate::store::streak::AppliedStreak;

/// What came as streaks.
#[derive(Default)]
struct Streaks {
    records: u64,
}

impl Observer for Streaks {
    fn applied(&mut self, _: &Applied<'_>) {}

    fn applied_exactly(&mut self, _: &AppliedExactly) {}

    fn applied_streak(&mut self, _: &AppliedStreak) {
        self.records += 1;
    }
}

/// Few stacks, few sizes, and an oracle that likes to free the newest block: streaks of both kinds, at peaks and below.
#[test]
fn streaks_equal_the_oracle() {
    for seed in 1..=12u64 {
        let store = Store::create(&options(Place::Memory)).expect("a store");
        let tables = store.tables();
        let mut attribution = Attribution::new(BASE, 3_000);
        let stacks = add_stacks(&tables, 1 + seed % 3);
        let mut producers: Vec<_> = (0..2)
            .map(|tid| store.ring(store.claim_ring(tid).expect("a ring")).expect("its words").producer())
            .collect();
        let mut oracle =
            Oracle::new(0x51ee_7000_0000_0001u64.wrapping_mul(seed), &[0], &[16, 64][..1 + seed as usize % 2]);
        oracle.lifo_percent = 60;
        let mut choices = Random(seed ^ 0x5555);
        let mut streaks = Streaks::default();
        let mut ring = 0;
        for step in 0..6_000 {
            if choices.below(40) == 0 {
                ring = choices.below(2) as usize;
            }
            let record = oracle.step(&stacks);
            if producers[ring].push(&record).is_err() {
                attribution.drain(&tables, Ticks(u64::MAX), &mut streaks);
                producers[ring].push(&record).expect("drained");
            }
            if choices.below(40) == 0 {
                attribution.drain(&tables, Ticks(oracle.now), &mut streaks);
            }
            if choices.below(300) == 0 {
                end_epoch(&tables, Ticks(oracle.now));
            }
            if step % 200 == 199 {
                attribution.drain(&tables, Ticks(oracle.now), &mut streaks);
                oracle.check(&own_picture(&store, Ticks(oracle.now)), &stacks);
            }
        }
        assert!(streaks.records > 300, "{} streaks are too few to show anything", streaks.records);
    }
}

/// Reads the file as that of a process which died between an application and the tail that steps over it.
struct Deaths<'a> {
    path: &'a std::path::Path,
    oracle: &'a mut Oracle,
    stacks: &'a [StackId],
    of_streaks: u32,
    /// Records of exact mode that were applied by themselves.
    alone: u32,
}

impl Observer for Deaths<'_> {
    fn applied(&mut self, _: &Applied<'_>) {
        self.dies();
    }

    fn applied_exactly(&mut self, _: &AppliedExactly) {
        self.dies();
        self.alone += 1;
    }

    fn applied_streak(&mut self, _: &AppliedStreak) {
        self.dies();
        self.of_streaks += 1;
    }
}

impl Deaths<'_> {
    fn dies(&mut self) {
        let bytes = std::fs::read(self.path).expect("the file");
        let dead = reader::read_from(&bytes[..], |_| true).expect("a sound store");
        assert_eq!((dead.life, dead.loss.rows_in_doubt), (Life::Killed, 0));
        self.oracle.check(&dead, self.stacks);
    }
}

#[test]
fn a_streak_is_applied_once_wherever_the_writer_died() {
    let path = temporary("streak-moments");
    let store = Store::create(&options(Place::Path(path.clone()))).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, 2);
    let mut oracle = Oracle::new(0x0dd5_712e_a45d, &[0], &[32]);
    oracle.lifo_percent = 70;
    let mut attribution = Attribution::new(BASE, 3_000);
    let ring = store.ring(store.claim_ring(1).expect("a ring")).expect("its words");
    let mut producer = ring.producer();
    let (mut of_streaks, mut alone) = (0, 0);
    for _ in 0..60 {
        for _ in 0..20 {
            producer.push(&oracle.step(&stacks)).expect("room");
        }
        let until = Ticks(oracle.now);
        let mut deaths = Deaths { path: &path, oracle: &mut oracle, stacks: &stacks, of_streaks: 0, alone: 0 };
        attribution.drain(&tables, until, &mut deaths);
        of_streaks += deaths.of_streaks;
        alone += deaths.alone;
    }
    assert!(of_streaks > 50 && alone > 50, "{of_streaks} streaks, {alone} records: too few to show anything");
    std::fs::remove_file(path).expect("the test's own");
}
