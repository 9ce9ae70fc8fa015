#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| waxseal_filter_testkit::fuzz::enrich_files(data));
