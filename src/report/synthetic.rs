//! Made-up pictures for tests of this crate and of its workspace; not part of the API.

use crate::report::Snapshot;
use crate::sampler::weight::{IntervalCode, Weight};
use crate::store::picture::{
    Amount, ExactTotals, Figures, HistoryPoint, ModulePicture, Picture, SitePicture, SizeClassPicture,
};
use crate::units::{FrameKey, ModuleId, StackId};

/// Builds a picture site by site, keeping the totals and size classes true to it.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) picture: Picture,
}

impl Builder {
    /// A profile in exact mode (interval 0) or sampled with a fixed mean interval.
    pub(crate) fn new(interval_bytes: u64) -> Builder {
        let exact_mode = interval_bytes == 0;
        Builder {
            picture: Picture {
                exact_mode,
                fixed_interval_bytes: interval_bytes,
                interval: if exact_mode { IntervalCode::EXACT } else { IntervalCode::FIXED },
                unwinder: "synthetic".into(),
                pid: 4242,
                command: "program --with 'arguments'".into(),
                started_unix_ns: 1_700_000_000_000_000_000,
                elapsed_ns: 12_345_678_901,
                gmax_ns: 6_000_000_000,
                now_ticks: 12_345_678_901,
                ns_per_tick: 1.0,
                modules: vec![ModulePicture::default()],
                size_classes: vec![SizeClassPicture::default(); 48],
                ..Picture::default()
            },
        }
    }

    /// Adds a loaded module; its row.
    pub(crate) fn module(&mut self, path: &str, build_id: &[u8], bias: u64, end: u64) -> ModuleId {
        let row = ModuleId(u16::try_from(self.picture.modules.len()).expect("few modules"));
        self.picture.modules.push(ModulePicture {
            path: path.into(),
            build_id: build_id.into(),
            bias,
            start: bias,
            end,
            loaded: true,
        });
        row
    }

    /// Adds a site of which blocks of `size` bytes were recorded: so many still live and so many freed, each after
    /// 1 ms.
    pub(crate) fn site(&mut self, frames: &[FrameKey], size: u64, live: u64, freed: u64) -> &mut SitePicture {
        let interval = self.picture.interval.interval_bytes(self.picture.fixed_interval_bytes);
        let weight = Weight::of(size, interval);
        let known = |amount: Amount| Amount { smallest_bytes: size.max(1), ..amount };
        let live_amount = known(times(&weight, live));
        let total = known(times(&weight, live + freed));
        let figures = Figures {
            live: live_amount,
            total,
            max_bytes: total.bytes,
            max_blocks: total.blocks,
            gmax_bytes: live_amount.bytes,
            gmax_blocks: live_amount.blocks,
            ended_lifetimes: u128::from(weight.blocks) * u128::from(freed) * 1_000_000,
            live_births: u128::from(live_amount.blocks) * 1_000_000_000,
            freed_blocks: weight.blocks * freed,
        };
        let exact = &mut self.picture.exact;
        *exact = ExactTotals {
            total_bytes: exact.total_bytes + total.whole_bytes(),
            total_blocks: exact.total_blocks + total.whole_blocks(),
            freed_bytes: exact.freed_bytes + total.whole_bytes() - live_amount.whole_bytes(),
            freed_blocks: exact.freed_blocks + total.whole_blocks() - live_amount.whole_blocks(),
            max_live_bytes: exact.max_live_bytes + live_amount.whole_bytes(),
            max_live_blocks: exact.max_live_blocks + live_amount.whole_blocks(),
            ..*exact
        };
        self.picture.gmax_bytes += live_amount.bytes;
        self.picture.gmax_blocks += live_amount.blocks;
        let class = usize::try_from(size.max(1).ilog2()).expect("a class of sizes");
        if let Some(class) = self.picture.size_classes.get_mut(class) {
            super::snapshot::add(&mut class.live, &live_amount);
            super::snapshot::add(&mut class.total, &total);
        }
        let stack = StackId(u32::try_from(self.picture.sites.len() + 1).expect("few sites"));
        self.picture.sites.push(SitePicture {
            stack,
            frames: frames.into(),
            figures,
            tainted: false,
            folded: false,
            scopes: Box::default(),
        });
        self.picture.sites.last_mut().expect("just pushed")
    }
}

/// `count` samples of one weight.
pub(crate) fn times(weight: &Weight, count: u64) -> Amount {
    Amount {
        bytes: weight.bytes * count,
        blocks: weight.blocks * count,
        sampled_bytes: weight.bytes * count * weight.samples,
        sampled_blocks: weight.blocks * count * weight.samples,
        samples: weight.samples * count,
        bytes_variance: weight.bytes_variance * u128::from(count),
        blocks_variance: weight.blocks_variance * u128::from(count),
        smallest_bytes: 0,
        resized: false,
    }
}

/// The shapes of file that `snapshot` makes.
pub(crate) const SHAPES: [&str; 8] = ["empty", "one", "exact", "sampled", "many", "names", "no-frames", "unknown"];

/// A snapshot of the named shape, with symbols of no file: its names are made up.
pub(crate) fn snapshot(shape: &str) -> Option<Snapshot> {
    let mut b = Builder::new(if matches!(shape, "sampled" | "unknown") { 65_536 } else { 0 });
    let module = b.module("/opt/app/bin/app", &[0xab; 20], 0x5555_0000_0000, 0x5555_0010_0000);
    let key = |offset: u64| FrameKey::new(module, offset);
    match shape {
        "empty" => {}
        "one" => drop(b.site(&[key(0x10), key(0x20)], 100, 3, 4)),
        "exact" | "sampled" | "unknown" => {
            for i in 0..20 {
                let frames = [key(0x1000 + i), key(0x100 + i % 5), key(0x10 + i % 2), key(1)];
                b.site(&frames, 1 << (4 + i % 16), 3 + i, 2 * i).tainted = shape == "unknown" && i % 3 == 0;
            }
        }
        "many" => {
            for i in 0..50_000 {
                b.site(
                    &[key(0x10_0000 + i), key(0x1000 + i % 977), key(0x100 + i % 13), key(1)],
                    16 + i % 300,
                    i % 7,
                    1,
                );
            }
        }
        "names" => drop(b.site(&(1..=6).map(key).collect::<Vec<_>>(), 100, 3, 4)),
        "no-frames" => {
            b.site(&[], 100, 1, 0);
            b.site(&[key(0x10)], 100, 1, 0);
        }
        _ => return None,
    }
    b.picture.history = (1..=3)
        .map(|i| HistoryPoint {
            at_ns: i * 4_000_000_000,
            live_bytes: i * 100,
            interval: b.picture.interval,
            ..HistoryPoint::default()
        })
        .collect();
    if shape == "unknown" {
        b.picture.loss.dropped_records = 7;
    }
    let snapshot = Snapshot::from_picture(b.picture);
    snapshot.name_frames(|offset| match (shape, offset) {
        ("names", 1) => Some("quoted \"name\" \\ back".into()),
        ("names", 2) => Some("línea::ünïcode::函数::🦀".into()),
        ("names", 3) => Some("line\nbreak\tand\u{1}control".into()),
        ("names", 4) => Some("<html>&amp;</script>".into()),
        ("names", 5) => Some(String::new()),
        ("names", 6) => Some("app::main".into()),
        (_, 0x1000..) => Some(format!("app::allocate_{offset:x}")),
        (_, 0x100..) => Some(format!("app::middle_{offset:x}")),
        (_, 2..) => Some(format!("app::outer_{offset:x}")),
        _ => Some("app::main".into()),
    });
    Some(snapshot)
}

/// The DHAT file of the named shape, for tests outside this crate.
#[cfg(feature = "_synthetic")]
pub fn dhat_file(shape: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    snapshot(shape)?.write_dhat(&mut out).ok()?;
    Some(out)
}

/// The names that `dhat_file` knows.
#[cfg(feature = "_synthetic")]
pub fn shapes() -> &'static [&'static str] {
    &SHAPES
}

/// Draws of tests: xorshift64*, from a seed that the test prints.
#[cfg(test)]
pub(crate) struct Random(pub(crate) u64);

#[cfg(test)]
impl Random {
    /// Uniform in (0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// How many of `count` blocks are sampled with probability `p`: by the gaps between them, which are geometric.
    pub(crate) fn binomial(&mut self, count: u64, p: f64) -> u64 {
        if p >= 1.0 {
            return count;
        }
        let (mut at, mut hits) = (0.0, 0);
        loop {
            at += (self.unit().ln() / (-p).ln_1p()).floor() + 1.0;
            if at > count as f64 {
                return hits;
            }
            hits += 1;
        }
    }
}
