//! Rows: where they are, in which order, and how they are written.

mod index_writer;
pub mod key_order;
pub mod result_rows;
pub mod row;
pub mod row_streams;
pub mod slot;
pub mod sorter;
pub mod spool;
pub mod stored;
pub mod table_writer;
