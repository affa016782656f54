//! A site's cache of rendered pages: views fill it, edits take pages out by `pop`.
//!
//! lru 0.6.3 forgets the key that was stored when its entry is popped. The same keys are freed when entries are evicted, so
//! of what `store` copies some blocks are freed and others lost.

mod rounds;

use lru::LruCache;
use rounds::{Case, Dice};

const PAGES: u64 = 4_000;
const CACHED_PAGES: usize = 800;
const VIEWS_A_ROUND: u64 = 1_500;
const EDITS_A_ROUND: u64 = 750;

struct Site {
    cache: LruCache<String, Vec<u8>>,
    served_bytes: u64,
}

impl Site {
    #[inline(never)]
    fn view(&mut self, dice: &mut Dice) {
        let path = path(popular(dice));
        if let Some(page) = self.cache.get(&path) {
            self.served_bytes += page.len() as u64;
            return;
        }
        let page = render(&path, dice);
        self.served_bytes += page.len() as u64;
        self.store(&path, page);
    }

    #[inline(never)]
    fn store(&mut self, path: &str, page: Vec<u8>) {
        self.cache.put(path.to_owned(), page);
    }

    #[inline(never)]
    fn edit(&mut self, dice: &mut Dice) {
        self.cache.pop(&path(popular(dice)));
    }
}

/// A page, the first ones far more often.
fn popular(dice: &mut Dice) -> u64 {
    let end = dice.below(PAGES) + 1;
    dice.below(end)
}

#[inline(never)]
fn path(page: u64) -> String {
    format!("/en/handbook/section-{:03}/article-{page:06}?variant=desktop&theme=light&revision=published", page % 97)
}

#[inline(never)]
fn render(path: &str, dice: &mut Dice) -> Vec<u8> {
    let mut page = format!("<!doctype html><title>{path}</title>").into_bytes();
    page.resize(dice.size(200, 3_000), b'.');
    page
}

fn main() {
    let mut site = Site { cache: LruCache::new(CACHED_PAGES), served_bytes: 0 };
    let case = Case { name: "lru", culprit: &["Site::store"], lost_with_it: &[] };
    rounds::run(case, |dice| {
        for _ in 0..VIEWS_A_ROUND {
            site.view(dice);
        }
        for _ in 0..EDITS_A_ROUND {
            site.edit(dice);
        }
    });
    assert!(site.served_bytes > 0);
}
