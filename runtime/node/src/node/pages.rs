//! Pages of memory stay small.

/// Asks the system for no huge pages in this process. One is cleared when its first byte is written, for a millisecond
/// or more, while a request waits for it; and where a system gives them to everybody, a guest that wrote to one byte of
/// its memory holds 2 MiB. Nothing depends on it, so a system that knows no such wish is left alone.
pub fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages could not be turned off");
    }
}
