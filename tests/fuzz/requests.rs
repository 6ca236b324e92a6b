//! Requests over HTTP: URLs, JSON, documents, variables, multipart forms.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oriel_fuzz::request(data));
