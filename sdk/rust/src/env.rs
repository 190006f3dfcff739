//! The function's settings, from `wasi:cli/environment`. `std::env` sees none of them in a core module.

/// The value of the setting `name`, if the function has it.
pub fn var(name: &str) -> Option<String> {
    vars().into_iter().find_map(|(key, value)| (key == name).then_some(value))
}

/// All settings of the function, names and values.
pub fn vars() -> Vec<(String, String)> {
    wasip2::cli::environment::get_environment()
}
