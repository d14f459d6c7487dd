//! The test-suite of every `JobStore`.
