//! What glibc's allocator keeps.

/// Buffers of a megabyte come and go on many threads, and glibc keeps what each of them once had: twice what is in use.
/// A fixed threshold gives large ones back to the system; glibc then no longer moves its thresholds by itself. This
/// holds for the whole process, the shipper's too; who sets the threshold in the environment is left alone.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn return_large_buffers() {
    let tuned = std::env::var("GLIBC_TUNABLES").is_ok_and(|t| t.contains("malloc.mmap_threshold"));
    if tuned || std::env::var_os("MALLOC_MMAP_THRESHOLD_").is_some() {
        return;
    }
    // SAFETY: mallopt takes two integers; it works under the lock of the main arena, and the parameters it sets are
    // words that other threads read whole, old or new.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// At most four arenas; in a process of ours only.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn limit_arenas() {
    // SAFETY: mallopt takes two integers; called before other threads run.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 4);
    }
}

/// Other allocators need nothing.
#[cfg(not(target_env = "gnu"))]
pub fn return_large_buffers() {}

/// Other allocators need nothing.
#[cfg(not(target_env = "gnu"))]
pub fn limit_arenas() {}
