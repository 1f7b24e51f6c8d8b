//! Unit tests of the KV manager.
