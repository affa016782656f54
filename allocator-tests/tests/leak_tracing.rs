//! Feature `tracing`: an event with the verdict's figures when a verdict begins, and when it is withdrawn.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use unfreed::{LeakConfig, Profiler};

#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

/// Events of ours: level, and fields by name, as text.
static EVENTS: Mutex<Vec<(Level, BTreeMap<&'static str, String>)>> = Mutex::new(Vec::new());

struct Keeps;

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Keeps {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "unfreed"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        EVENTS.lock().expect("no panic here").push((*event.metadata().level(), fields.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[inline(never)]
fn accumulate(kept: &mut Vec<Box<[u8; 1000]>>) {
    for _ in 0..10 {
        kept.push(std::hint::black_box(Box::new([1; 1000])));
    }
}

#[test]
fn verdicts_are_events_with_their_figures() {
    tracing::subscriber::set_global_default(Keeps).expect("the first");
    let mut config = LeakConfig::default();
    (config.suspect_after_epochs, config.leak_after_epochs, config.age_share) = (16, 40, 0.0);
    let builder = Profiler::builder().exact().manual_epochs().no_output().quiet().store_in_memory();
    let profiler = builder.leak_config(config).start().expect("starts");
    let mut kept = Vec::with_capacity(10_000);
    for _ in 0..60 {
        accumulate(&mut kept);
        profiler.advance_epoch();
    }
    assert!(profiler.wait_until_told(Duration::from_secs(60)));
    let events = EVENTS.lock().expect("no panic");
    let of_site: Vec<_> = events.iter().filter(|(_, fields)| fields["message"].contains("accumulate")).collect();
    let levels: Vec<Level> = of_site.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [Level::WARN, Level::ERROR], "suspected, then a leak: {events:?}");
    let (_, leak) = of_site[1];
    assert!(leak["message"].starts_with("leak ("), "{leak:?}");
    assert_eq!(leak["state"], "leak", "{leak:?}");
    let figure = |name: &str| leak[name].parse::<f64>().expect("a number");
    assert!(figure("live_bytes") >= 400.0 * 1000.0 && figure("growth_bytes_per_minute") > 0.0, "{leak:?}");
}
