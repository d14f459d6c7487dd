//! runs plans: cache, lists, lazy inputs, expansion, cancellation
