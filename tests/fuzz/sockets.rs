//! WebSockets: frames, the sub-protocol graphql-transport-ws, and the operations in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oriel_fuzz::socket(data));
