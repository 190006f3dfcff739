//! The data listener: functions and `/to`.
