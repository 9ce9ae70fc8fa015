#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| waxseal_filter_testkit::fuzz::privacy(data));
