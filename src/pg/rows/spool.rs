//! Rows in the order in which they were written, kept outside of memory once they are many.

use std::ffi::c_int;

use pgrx::{PgSqlErrorCode, pg_sys};

use super::slot::Tuple;
use crate::pg::memory::Caller;

/// Rows that are written first, and read then; each with a number that says which one it is, or the number alone.
///
/// In memory and in the file they are a sequence of words, in which tuples are aligned: the number, and the tuple,
/// which begins with its length; or 0 in its place. What memory is too small for goes to the file in blocks.
pub struct Spool {
    /// What was written last; or what is read.
    block: Vec<u64>,
    /// Words of it that have been read.
    read: usize,
    /// Words that a block has at most, unless it is a single row.
    most_words: usize,
    file: Option<TemporaryFile>,
    is_read: bool,
    rows: u64,
    /// Where the file belongs.
    context: Caller,
}

const WORD: usize = size_of::<u64>();

impl Spool {
    /// In the present memory context and of this transaction.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            block: Vec::new(),
            read: 0,
            most_words: memory_bytes / WORD,
            file: None,
            is_read: false,
            rows: 0,
            context: Caller::now(),
        }
    }

    /// Appends a row, which is copied.
    pub fn write(&mut self, tag: i64, row: Option<Tuple>) {
        let bytes = row.as_ref().map_or(&[][..], Tuple::bytes);
        // Without a tuple, its length is there all the same.
        let words = 1 + bytes.len().div_ceil(WORD).max(1);
        if !self.block.is_empty() && self.block.len() + words > self.most_words {
            self.store();
        }
        self.rows += 1;
        reserve(&mut self.block, words);
        self.block.push(tag.cast_unsigned());
        let (whole, rest) = bytes.as_chunks::<WORD>();
        self.block.extend(whole.iter().map(|&word| u64::from_ne_bytes(word)));
        if !rest.is_empty() || whole.is_empty() {
            let mut last = [0; WORD];
            last[..rest.len()].copy_from_slice(rest);
            self.block.push(u64::from_ne_bytes(last));
        }
    }

    /// The next row from the beginning. Once reading has begun, nothing is written any more.
    pub fn read(&mut self) -> Option<(i64, Option<Tuple<'_>>)> {
        if !std::mem::replace(&mut self.is_read, true) && self.file.is_some() {
            self.store();
            self.file.as_mut()?.rewind();
        }
        if self.read == self.block.len() {
            self.block.clear();
            self.read = 0;
            if !self.file.as_mut()?.read(&mut self.block) {
                return None;
            }
        }
        let tag = *self.block.get(self.read)?;
        // SAFETY: a tuple as it was written lies there, or 0 as its length.
        let row = unsafe { Tuple::at(&self.block[self.read + 1..]) };
        self.read += 1 + row.as_ref().map_or(1, |row| row.bytes().len().div_ceil(WORD));
        Some((tag.cast_signed(), row))
    }

    /// The same of a spool in which every row has a tuple.
    pub fn read_row(&mut self) -> Option<(i64, Tuple<'_>)> {
        let (tag, row) = self.read()?;
        Some((tag, row.unwrap_or_else(|| pgrx::error!("a row is missing from a spool"))))
    }

    /// How many rows were written.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Moves the block to the file.
    fn store(&mut self) {
        let file = self.file.get_or_insert_with(|| self.context.run(TemporaryFile::new));
        file.write(&self.block);
        self.block.clear();
    }
}

/// Makes room for more words: a row can be as large as a gigabyte, and to run out of memory must not end the process.
fn reserve(block: &mut Vec<u64>, words: usize) {
    let reserved =
        if block.is_empty() { block.try_reserve_exact(words) } else { block.try_reserve(words) };
    if reserved.is_err() {
        pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, "out of memory");
    }
}

/// A file of blocks of words. After an ERROR the transaction removes it.
struct TemporaryFile(*mut pg_sys::BufFile);

impl TemporaryFile {
    fn new() -> Self {
        // SAFETY: inside a transaction.
        Self(unsafe { pg_sys::BufFileCreateTemp(false) })
    }

    fn write(&mut self, block: &[u64]) {
        for words in [&[block.len() as u64], block] {
            // SAFETY: the file is open; as many bytes are there.
            unsafe {
                pg_sys::BufFileWrite(self.0, words.as_ptr().cast_mut().cast(), size_of_val(words));
            }
        }
    }

    /// To the first block.
    fn rewind(&mut self) {
        const FROM_BEGIN: c_int = 0;
        // SAFETY: the file is open.
        if unsafe { pg_sys::BufFileSeek(self.0, 0, 0, FROM_BEGIN) } != 0 {
            pgrx::error!("could not rewind a temporary file");
        }
    }

    /// Reads the next block; false after the last.
    fn read(&mut self, block: &mut Vec<u64>) -> bool {
        let mut length = [0];
        if !self.fill(&mut length) {
            return false;
        }
        let words = usize::try_from(length[0]).unwrap_or_default();
        reserve(block, words);
        block.resize(words, 0);
        self.fill(block)
    }

    /// Reads so many words; false if there are none.
    fn fill(&mut self, words: &mut [u64]) -> bool {
        let expected = size_of_val(words);
        // SAFETY: the file is open; there is room for as many bytes.
        let read = unsafe { pg_sys::BufFileRead(self.0, words.as_mut_ptr().cast(), expected) };
        if read != 0 && read != expected {
            pgrx::error!("a temporary file is shorter than what was written to it");
        }
        read != 0
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `new`.
            unsafe { pg_sys::BufFileClose(self.0) };
        }
    }
}
