//! Collections whose keys come from outside.

use std::hint::black_box;

use super::leaks_network::Map;
use crate::arena::Arena;
use crate::case::{Case, Expect, Program};
use crate::random::Random;

pub(super) const CASES: &[Case] = &[
    Case::leak(
        "folder_cache",
        "HashMap<String, Data>, new keys for ever",
        &[&["load_folder", "FolderCache::get", "open_folder", "serve_folders"]],
        &["FolderCache::get", "open_folder"],
        folder_cache,
    ),
    Case::leak(
        "memory_store",
        "append-only operations and their index",
        &[&["encode_operation", "Log::append", "apply_operation", "operation_loop"]],
        &["Log::append"],
        memory_store,
    ),
    Case {
        // Told by its chunks, of which ever fewer come.
        steady: false,
        ..Case::leak(
            "token_arena",
            "an arena whose chunks double, never reset",
            &[&["Arena::grow", "Tokenizer::intern", "index_document", "index_loop"]],
            &["Tokenizer::intern"],
            token_arena,
        )
    },
    Case {
        expect: Expect::Sublinear,
        steady: false,
        ..Case::leak(
            "sqrt_interner",
            "grows like √t",
            &[&["copy_word", "Interner::intern", "read_text", "text_loop"]],
            &["Interner::intern"],
            sqrt_interner,
        )
    },
];

#[derive(Default)]
struct FolderCache {
    folders: Map<String, Vec<u8>>,
}

impl FolderCache {
    #[inline(never)]
    fn get(&mut self, name: String) -> usize {
        let folder = self.folders.entry(name).or_insert_with(load_folder);
        black_box(folder.len())
    }
}

fn folder_cache(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut cache) = (Random::new(seed), FolderCache::default());
    Box::new(move |_| serve_folders(&mut random, &mut cache))
}

#[inline(never)]
fn serve_folders(random: &mut Random, cache: &mut FolderCache) {
    for _ in 0..random.poisson(12.0) {
        open_folder(random, cache);
    }
}

#[inline(never)]
fn open_folder(random: &mut Random, cache: &mut FolderCache) {
    let name = format!("folder {:016x}", random.word());
    black_box(cache.get(name));
}

#[inline(never)]
fn load_folder() -> Vec<u8> {
    black_box(vec![3; 1500])
}

/// Never compacted.
#[derive(Default)]
struct Log {
    operations: Vec<Vec<u8>>,
    index: Map<[u64; 6], usize>,
}

impl Log {
    #[inline(never)]
    fn append(&mut self, key: u64) {
        self.index.insert([key; 6], self.operations.len());
        self.operations.push(encode_operation(key));
    }
}

fn memory_store(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut log) = (Random::new(seed), Log::default());
    Box::new(move |_| operation_loop(&mut random, &mut log))
}

#[inline(never)]
fn operation_loop(random: &mut Random, log: &mut Log) {
    for _ in 0..random.poisson(30.0) {
        apply_operation(random, log);
    }
}

#[inline(never)]
fn apply_operation(random: &mut Random, log: &mut Log) {
    log.append(random.word());
    black_box(log.operations.len());
}

#[inline(never)]
fn encode_operation(key: u64) -> Vec<u8> {
    let mut operation = Vec::with_capacity(700);
    operation.extend_from_slice(&key.to_be_bytes());
    black_box(operation)
}

/// What it interned is never forgotten.
#[derive(Default)]
struct Tokenizer {
    arena: Arena,
}

impl Tokenizer {
    #[inline(never)]
    fn intern(&mut self, bytes: usize) {
        self.arena.take(bytes);
        black_box(bytes);
    }
}

fn token_arena(seed: u64, _epochs: u32) -> Program {
    let (mut random, mut tokenizer) = (Random::new(seed), Tokenizer::default());
    Box::new(move |_| index_loop(&mut random, &mut tokenizer))
}

#[inline(never)]
fn index_loop(random: &mut Random, tokenizer: &mut Tokenizer) {
    for _ in 0..random.poisson(40.0) {
        index_document(random, tokenizer);
    }
}

#[inline(never)]
fn index_document(random: &mut Random, tokenizer: &mut Tokenizer) {
    let document = black_box(vec![5u8; 400 + random.below(800)]);
    tokenizer.intern(document.len());
    black_box(document.len());
}

/// Words as texts have them: of n words about √n are new.
struct Interner {
    words: Map<u64, Box<[u8]>>,
}

impl Interner {
    #[inline(never)]
    fn intern(&mut self, word: u64) {
        self.words.entry(word).or_insert_with(|| copy_word(word));
    }
}

fn sqrt_interner(seed: u64, _epochs: u32) -> Program {
    let mut random = Random::new(seed);
    let mut interner = Interner { words: Map::default() };
    Box::new(move |t| text_loop(&mut random, &mut interner, t))
}

#[inline(never)]
fn text_loop(random: &mut Random, interner: &mut Interner, t: u32) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousand words")]
    let known = (150.0 * f64::from(t + 1).sqrt()) as u64;
    for _ in 0..20 {
        let old = random.below(usize::try_from(known).unwrap_or(1)) as u64;
        read_text(interner, old);
    }
    for word in interner.words.len() as u64..known {
        read_text(interner, word);
    }
}

#[inline(never)]
fn read_text(interner: &mut Interner, word: u64) {
    interner.intern(word);
    black_box(interner.words.len());
}

#[inline(never)]
fn copy_word(word: u64) -> Box<[u8]> {
    let mut copy = vec![0; 2048].into_boxed_slice();
    copy[..8].copy_from_slice(&word.to_le_bytes());
    black_box(copy)
}
