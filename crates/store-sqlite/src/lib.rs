//! the durable JobStore on SQLite
