//! The program: the service of the report, and the heap profiler where the feature `heap-profile` swaps it in.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use rustymail::cli::Args;
use rustymail::progress::Progress;
use rustymail::store::MailStore;
use rustymail::sync::SyncService;

#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOC: unfreed::Alloc = unfreed::Alloc::system();

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.validate() {
        error.exit();
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rustymail: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "heap-profile")]
    let profiler = {
        // A batch is a round: whatever outlives round after round is what the verdicts are about. A service that runs
        // for hours leaves epochs to the clock.
        let builder = unfreed::Profiler::builder().output(args.output.clone()).manual_epochs();
        Arc::new(if args.exact { builder.exact() } else { builder }.start()?)
    };
    #[cfg(feature = "heap-profile")]
    let end_of_batch = {
        // Weak: the service leaks its observers, and the profiler is to end here all the same.
        let profiler = Arc::downgrade(&profiler);
        move || {
            if let Some(profiler) = profiler.upgrade() {
                profiler.advance_epoch();
            }
        }
    };
    #[cfg(not(feature = "heap-profile"))]
    let end_of_batch = || {};

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(sync(args, end_of_batch))?;
    drop(runtime);

    #[cfg(feature = "heap-profile")]
    {
        drop(profiler);
        eprintln!("rustymail: {}", how_to_open(&args.output));
    }
    #[cfg(not(feature = "heap-profile"))]
    eprintln!("rustymail: heap profile off; for one: cargo run --release -p rustymail --features heap-profile");
    Ok(())
}

/// Syncs everything once and prints the work done.
async fn sync(args: &Args, end_of_batch: impl Fn() + Send + Sync + 'static) -> Result<(), Box<dyn Error>> {
    let service = SyncService::new(Arc::new(MailStore::new(args.store_config())), args.mode());
    let progress = Arc::new(Progress::new(u64::from(args.emails)));
    let shown = Arc::clone(&progress);
    service.attach_metrics(move |totals| {
        shown.set(totals.emails);
        end_of_batch();
    });
    let result = service.start_background_sync().await?;
    progress.finish();
    result?;
    println!("synced {}; {} emails kept", service.totals(), service.emails_kept());
    Ok(())
}

/// Valgrind brings the viewer along where it is installed; it is online as well.
#[cfg(feature = "heap-profile")]
fn how_to_open(profile: &std::path::Path) -> String {
    let installed = ["/usr/libexec/valgrind/dh_view.html", "/usr/lib/valgrind/dh_view.html"];
    let viewer = match installed.into_iter().find(|viewer| std::path::Path::new(viewer).exists()) {
        Some(viewer) => format!("file://{viewer}"),
        None => "https://nnethercote.github.io/dh_view/dh_view.html".to_owned(),
    };
    format!("open {viewer} in a browser, 'Load\u{2026}' {}, choose 'bytes at t-end'", profile.display())
}
