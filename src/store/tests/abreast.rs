//! Streaks of several rings: whatever is read out of its turn, the result is that of the order of time.

use super::*;
use crate::drain::watch::Watch;
use crate::ring::RingId;
use crate::store::attribution::Attribution;
use crate::store::epoch::end_epoch;
use crate::store::exact::AppliedExactly;
use crate::store::observer::{Applied, Observer};
use crate::store::picture::Life;
use crate::store::reader;
use crate::store::streak::AppliedStreak;
use crate::units::SiteId;

/// One store, and all that watches it.
struct Side {
    store: Store,
    attribution: Attribution,
    watch: Watch,
    /// Streaks, records that came alone, and how often rings were allowed to be read out of turn.
    streaks: u64,
    alone: u64,
    allowed: u64,
}

/// Hands on to the judge, and counts.
struct Counts<'a> {
    watch: &'a mut Watch,
    streaks: &'a mut u64,
    alone: &'a mut u64,
    allowed: &'a mut u64,
}

impl Observer for Counts<'_> {
    fn reads(&mut self, ring: RingId) {
        self.watch.reads(ring);
    }

    fn may_reorder(&mut self, site: SiteId, size: u64, ring: RingId, blocks: u64) -> bool {
        let may = self.watch.may_reorder(site, size, ring, blocks);
        *self.allowed += u64::from(may);
        may
    }

    fn applied(&mut self, applied: &Applied<'_>) {
        *self.alone += 1;
        self.watch.applied(applied);
    }

    fn applied_streak(&mut self, applied: &AppliedStreak) {
        *self.streaks += 1;
        self.watch.applied_streak(applied);
    }

    fn applied_exactly(&mut self, applied: &AppliedExactly) {
        *self.alone += 1;
        self.watch.applied_exactly(applied);
    }
}

impl Side {
    fn new() -> Side {
        let store =
            Store::create(&StoreOptions { bound_bytes: 16 << 20, ring_records: 8192, ..options(Place::Memory) })
                .expect("a store");
        let watch = Watch::new(BASE, 3_000).expect("memory");
        Side { store, attribution: Attribution::new(BASE, 3_000), watch, streaks: 0, alone: 0, allowed: 0 }
    }

    fn with<T>(&mut self, f: impl FnOnce(&Tables<'_>, &mut Attribution, &mut Counts<'_>) -> T) -> T {
        let Side { store, attribution, watch, streaks, alone, allowed } = self;
        f(&store.tables(), attribution, &mut Counts { watch, streaks, alone, allowed })
    }

    fn end_epoch(&mut self, at: u64) {
        end_epoch(&self.store.tables(), Ticks(at));
        self.watch.begin_epoch(Ticks(at));
    }

    /// All that can be seen of it.
    fn seen(&mut self, now: u64) -> String {
        let picture = own_picture(&self.store, Ticks(now));
        let classes: Vec<_> = picture.size_classes.iter().map(|class| (class.live, class.total)).collect();
        let tables = self.store.tables();
        let global = &tables.header.global;
        let global = [
            &global.live_bytes,
            &global.live_blocks,
            &global.max_bytes,
            &global.max_blocks,
            &global.max_at,
            &global.last_at,
        ]
        .map(|word| word.load(Ordering::Relaxed));
        let judged = format!("{:?}", self.watch.histories());
        let sites = figures(&picture);
        format!("{global:?}\n{sites}\n{classes:?}\n{judged}\n{:?}", self.watch.habits())
    }
}

/// A thread that makes and drops a block, again and again, and now and then does something else.
#[derive(Default)]
struct Thread {
    stack: usize,
    size: u64,
    block: Option<u64>,
    kept: Vec<(usize, u64, u64)>,
    speed: u64,
}

struct Program {
    random: Random,
    threads: Vec<Thread>,
    stacks: Vec<StackId>,
    sizes: Vec<u64>,
    now: u64,
    /// One in so many events is something else.
    unrest: u64,
    /// No two blocks at once.
    is_locked: bool,
}

impl Program {
    fn record(&self, kind: Kind, (stack, size, birth): (usize, u64, u64)) -> Record {
        Record {
            at: Ticks(self.now),
            kind,
            stack: self.stacks[stack],
            interval: IntervalCode::EXACT,
            size,
            old_size: 0,
            old_interval: IntervalCode::EXACT,
            birth: Ticks(birth),
            carried: 0.0,
        }
    }

    /// What happens next, and in which thread.
    fn step(&mut self) -> (usize, Record) {
        // Often the same moment: of one thread, and of several.
        self.now += self.random.below(3);
        let mut which = loop {
            let which = self.random.below(self.threads.len() as u64) as usize;
            if self.random.below(8) < self.threads[which].speed {
                break which;
            }
        };
        if self.is_locked
            && let Some(holder) = self.threads.iter().position(|thread| thread.block.is_some())
        {
            which = holder;
        }
        let unrest = self.random.below(self.unrest);
        let size = self.sizes[self.random.below(self.sizes.len() as u64) as usize];
        let stack = self.random.below(self.stacks.len() as u64) as usize;
        let (now, choice) = (self.now, self.random.below(4));
        let thread = &mut self.threads[which];
        let (kind, block) = match thread.block.take() {
            Some(birth) if unrest == 0 && choice == 0 => {
                thread.kept.push((thread.stack, thread.size, birth));
                (thread.stack, thread.size) = (stack, size);
                thread.block = Some(now);
                (Kind::Alloc, (stack, size, 0))
            }
            Some(birth) => (Kind::Free, (thread.stack, thread.size, birth)),
            None if unrest == 0 && choice < 3 && !thread.kept.is_empty() => (Kind::Free, thread.kept.swap_remove(0)),
            None => {
                if unrest == 0 {
                    (thread.stack, thread.size) = (stack, size);
                }
                thread.block = Some(now);
                (Kind::Alloc, (thread.stack, thread.size, 0))
            }
        };
        (which, self.record(kind, block))
    }
}

/// Programs of 2 to 9 threads, calm and restless, of one site and of several, with locks and without.
#[test]
fn rings_read_abreast_leave_what_the_order_of_time_leaves() {
    let (mut streaks, mut in_streaks, mut allowed) = (0, 0, 0);
    for seed in 1..=120u64 {
        let mut random = Random(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed));
        let (mut abreast, mut ordered) = (Side::new(), Side::new());
        let mut stacks = Vec::new();
        let count = 1 + random.below(3);
        for side in [&abreast, &ordered] {
            stacks = add_stacks(&side.store.tables(), count);
        }
        let rings: Vec<_> = (0..2 + random.below(8) as u32)
            .map(|tid| {
                abreast.store.lay_out_ahead();
                abreast.store.claim_ring(tid).expect("a ring")
            })
            .collect();
        let sizes = [&[64][..], &[16, 64], &[16, 17, 33, 4096]][random.below(3) as usize].to_vec();
        let threads = rings.iter().map(|_| Thread {
            stack: random.below(count) as usize,
            size: sizes[random.below(sizes.len() as u64) as usize],
            speed: 1 + random.below(8),
            ..Thread::default()
        });
        let threads = threads.collect();
        let unrest = [40, 400, 4000][random.below(3) as usize];
        let mut program =
            Program { random: Random(seed), threads, stacks, sizes, now: BASE.0, unrest, is_locked: false };
        let mut waiting: Vec<(u64, usize, Record)> = Vec::new();
        let mut until = BASE.0;
        for round in 0..40 {
            let quiet = program.threads.iter().filter(|thread| thread.block.is_some()).count() < 2;
            program.is_locked = quiet && random.below(4) == 0;
            for _ in 0..random.below(900) {
                let (thread, record) = program.step();
                let ring = abreast.store.ring(rings[thread]).expect("its words");
                ring.producer().push(&record).expect("room");
                waiting.push((record.at.0, thread, record));
            }
            until = match random.below(3) {
                0 => until + random.below(program.now - until + 1),
                _ => program.now,
            };
            abreast.with(|tables, attribution, observer| attribution.drain(tables, Ticks(until), observer));
            // Stable: records of one thread and moment keep their order.
            waiting.sort_by_key(|&(at, thread, _)| (at, thread));
            let ready = waiting.partition_point(|&(at, ..)| at <= until);
            for (_, thread, record) in waiting.drain(..ready) {
                ordered.with(|tables, attribution, observer| {
                    assert!(attribution.apply_exactly(tables, &record.encode(), (rings[thread], 0), observer));
                });
            }
            if random.below(4) == 0 {
                // In an epoch's first drain everything is news to the judge.
                abreast.end_epoch(until);
                ordered.end_epoch(until);
            }
            let (found, expected) = (abreast.seen(program.now), ordered.seen(program.now));
            for (found, expected) in found.split(['\n', '{']).zip(expected.split(['\n', '{'])) {
                assert_eq!(found, expected, "seed {seed} round {round}");
            }
            assert_eq!(found.len(), expected.len());
        }
        streaks += abreast.streaks;
        allowed += abreast.allowed;
        in_streaks += ordered.alone - abreast.alone;
    }
    println!("{streaks} streaks of {in_streaks} records, {allowed} times out of turn");
    assert!(allowed > 10_000, "{allowed} times: too few to show anything");
}

/// Two rings' pairs at once reach as many bytes as one block did before, in more blocks.
#[test]
fn of_a_sites_equal_peaks_the_latest_counts() {
    let store = Store::create(&options(Place::Memory)).expect("a store");
    let tables = store.tables();
    let stacks = add_stacks(&tables, 2);
    let rings = [0, 1].map(|tid| store.claim_ring(tid).expect("a ring"));
    let mut producers = rings.map(|ring| store.ring(ring).expect("its words").producer());
    let mut program = Program {
        random: Random(1),
        threads: Vec::new(),
        stacks,
        sizes: Vec::new(),
        now: BASE.0,
        unrest: 0,
        is_locked: false,
    };
    let mut happens = |ring: usize, kind, block| {
        program.now += 1;
        producers[ring].push(&program.record(kind, block)).expect("room");
        program.now
    };
    for (stack, size) in [(0, 4096), (1, 32)] {
        let birth = happens(0, Kind::Alloc, (stack, size, 0));
        happens(0, Kind::Free, (stack, size, birth));
    }
    for _ in 0..20 {
        let births = [0, 1].map(|ring| happens(ring, Kind::Alloc, (1, 16, 0)));
        for (ring, birth) in births.into_iter().enumerate() {
            happens(ring, Kind::Free, (1, 16, birth));
        }
    }
    Attribution::new(BASE, 3_000).drain(&tables, Ticks(u64::MAX), &mut ());
    let picture = own_picture(&store, Ticks(program.now));
    let site = picture.sites.iter().find(|site| site.stack == program.stacks[1]).expect("it had blocks");
    assert_eq!((site.figures.max_bytes >> 8, site.figures.max_blocks >> 12), (32, 2));
}

/// Reads the file as that of a process which died between an application and the tail that steps over it.
struct Deaths<'a> {
    path: &'a std::path::Path,
    expected: &'a str,
    streaks: u32,
}

impl Observer for Deaths<'_> {
    fn applied(&mut self, _: &Applied<'_>) {
        self.dies();
    }

    fn applied_streak(&mut self, _: &AppliedStreak) {
        self.streaks += 1;
        self.dies();
    }

    fn applied_exactly(&mut self, _: &AppliedExactly) {
        self.dies();
    }
}

impl Deaths<'_> {
    fn dies(&mut self) {
        let bytes = std::fs::read(self.path).expect("the file");
        let dead = reader::read_from(&bytes[..], |_| true).expect("a sound store");
        assert_eq!((dead.life, dead.loss.rows_in_doubt), (Life::Killed, 0));
        assert_eq!(figures(&dead), self.expected);
    }
}

fn figures(picture: &Picture) -> String {
    let mut sites: Vec<_> = picture.sites.iter().map(|site| (site.stack.0, site.figures)).collect();
    sites.sort_by_key(|site| site.0);
    format!("{:?} {sites:?}", (picture.gmax_bytes, picture.gmax_blocks))
}

/// Some rings are read further in time than others then.
#[test]
fn rings_read_abreast_are_read_once_wherever_the_writer_died() {
    let mut streaks = 0;
    for seed in 1..=6u64 {
        let path = temporary(&format!("abreast-{seed}"));
        let store = Store::create(&options(Place::Path(path.clone()))).expect("a store");
        let tables = store.tables();
        let stacks = add_stacks(&tables, 2);
        let mut ordered = Side::new();
        add_stacks(&ordered.store.tables(), 2);
        let rings: Vec<_> = (0..3).map(|tid| store.claim_ring(tid).expect("a ring")).collect();
        let threads =
            rings.iter().map(|_| Thread { stack: 0, size: 64, speed: 8, ..Thread::default() }).collect::<Vec<_>>();
        let sizes = vec![16, 64];
        let mut program =
            Program { random: Random(seed), threads, stacks, sizes, now: BASE.0, unrest: 60, is_locked: false };
        let mut attribution = Attribution::new(BASE, 3_000);
        for _ in 0..12 {
            let mut records = Vec::new();
            for _ in 0..100 {
                let (thread, record) = program.step();
                store.ring(rings[thread]).expect("its words").producer().push(&record).expect("room");
                records.push((record.at.0, thread, record));
            }
            records.sort_by_key(|&(at, thread, _)| (at, thread));
            ordered.with(|tables, attribution, observer| {
                for (_, thread, record) in records {
                    assert!(attribution.apply_exactly(tables, &record.encode(), (rings[thread], 0), observer));
                }
            });
            let expected = figures(&own_picture(&ordered.store, Ticks(program.now)));
            let mut deaths = Deaths { path: &path, expected: &expected, streaks: 0 };
            attribution.drain(&tables, Ticks(program.now), &mut deaths);
            streaks += deaths.streaks;
        }
        std::fs::remove_file(path).expect("the test's own");
    }
    assert!(streaks > 100, "{streaks} streaks show nothing");
}
