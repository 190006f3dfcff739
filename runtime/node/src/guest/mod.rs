//! Guests: the engine, modules and artifacts, instances, host imports, limits, logs.
