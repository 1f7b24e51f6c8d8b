//! The main behaviours as traces.
