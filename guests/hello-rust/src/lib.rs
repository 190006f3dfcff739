//! The smallest function: one line, with a setting.

use tidegate_sdk::{IntoResponse, Request, Result, env};

#[tidegate_sdk::handler]
async fn hello(_request: Request) -> Result<impl IntoResponse> {
    let greeting = env::var("GREETING").unwrap_or_else(|| "Hello from Rust".to_owned());
    Ok(format!("{greeting}\n"))
}
