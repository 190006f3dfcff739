//! The function's log: lines on WASI's standard error. `eprintln!` reaches it only where std knows WASI.

use wasip2::io::streams::OutputStream;

/// `blocking-write-and-flush` takes no more than this many bytes at once.
const WRITE_AT_MOST: usize = 4096;

/// Writes `line` and a newline to the function's log. A log that takes no more (its limit is reached) is not an error here.
pub fn write(line: &str) {
    let stderr = wasip2::cli::stderr::get_stderr();
    let mut text = String::with_capacity(line.len() + 1);
    text.push_str(line);
    text.push('\n');
    write_all(&stderr, text.as_bytes());
}

fn write_all(stream: &OutputStream, bytes: &[u8]) {
    for chunk in bytes.chunks(WRITE_AT_MOST) {
        if stream.blocking_write_and_flush(chunk).is_err() {
            return;
        }
    }
}

/// Writes a line to the function's log; takes what `format!` takes.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::log::write(&::std::format!($($argument)*))
    };
}
