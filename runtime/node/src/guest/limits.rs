//! The bounds of one function, resolved: its own configuration within the node's settings.

use std::time::Duration;

use tidegate_core::units::{Size, Span};

use super::pool::most_of_one;
use crate::{
    cluster::registry::FunctionLimits,
    settings::{GuestSettings, names},
};

/// A bound and where it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<T> {
    /// What it is.
    pub value: T,
    /// The setting that changes it: a key of the function's configuration or of the node's settings.
    pub setting: &'static str,
}

/// Every bound of one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of one instance, bytes.
    pub memory: Bound<u64>,
    /// Time to the head of the answer, waiting at the gate not counted.
    pub wall: Bound<Duration>,
    /// Time on a processor.
    pub cpu: Bound<Duration>,
    /// Outbound calls of one invocation.
    pub calls: Bound<u32>,
    /// Outbound calls of one invocation that wait for the heads of their answers at once.
    pub concurrent_calls: Bound<u32>,
    /// Places of the instance pool that its instances may take together, all versions of it.
    pub instances: Bound<u32>,
    /// Core instances of one instance.
    pub core_instances: Bound<u32>,
    /// Time between two chunks of a streamed answer.
    pub stream_idle: Bound<Duration>,
    /// Time a streamed answer may last.
    pub stream_total: Bound<Duration>,
    /// Resources of one instance.
    pub handles: Bound<u64>,
    /// Bytes of one set of headers that the guest makes.
    pub fields: Bound<u64>,
    /// Log bytes of one invocation.
    pub log_bytes: Bound<u64>,
}

impl Limits {
    /// The function's own wishes where they are within the node's bounds, else the node's.
    pub fn resolve(own: &FunctionLimits, node: &GuestSettings) -> Self {
        Self {
            memory: Self::memory(own.memory, node),
            wall: own.wall.map_or(Bound { value: node.guest_wall.get(), setting: names::GUEST_WALL }, |wall| {
                Self::within(wall.get(), node.max_guest_wall.get(), "limits.wall", names::MAX_GUEST_WALL)
            }),
            cpu: own.cpu.map_or(Bound { value: node.guest_cpu.get(), setting: names::GUEST_CPU }, |cpu| {
                Self::within(cpu.get(), node.max_guest_cpu.get(), "limits.cpu", names::MAX_GUEST_CPU)
            }),
            calls: Self::count(own.outbound_calls, node.guest_calls, "limits.outbound_calls", names::GUEST_CALLS),
            concurrent_calls: Self::count(
                own.concurrent_calls,
                node.guest_concurrent_calls,
                "limits.concurrent_calls",
                names::GUEST_CONCURRENT_CALLS,
            ),
            instances: Self::share(own.instances, node),
            core_instances: Bound { value: node.guest_core_instances, setting: names::GUEST_CORE_INSTANCES },
            stream_idle: Self::span(
                own.stream_idle,
                node.guest_stream_idle,
                "limits.stream_idle",
                names::GUEST_STREAM_IDLE,
            ),
            stream_total: Self::span(
                own.stream_total,
                node.guest_stream_total,
                "limits.stream_total",
                names::GUEST_STREAM_TOTAL,
            ),
            handles: Bound { value: node.guest_handles.into(), setting: names::GUEST_HANDLES },
            fields: Bound { value: node.guest_fields.get(), setting: names::GUEST_FIELDS },
            log_bytes: own
                .log_bytes
                .map(Size::get)
                .map_or(Bound { value: node.guest_log_bytes.get(), setting: names::GUEST_LOG_BYTES }, |bytes| {
                    Self::within(bytes, node.guest_log_bytes.get(), "limits.log_bytes", names::GUEST_LOG_BYTES)
                }),
        }
    }

    /// No more than a function can hold of what all guests may hold together: less would do in no case.
    fn memory(own: Option<Size>, node: &GuestSettings) -> Bound<u64> {
        let bound = own.map_or(Bound { value: node.guest_memory.get(), setting: names::GUEST_MEMORY }, |size| {
            Self::within(size.get(), node.max_guest_memory.get(), "limits.memory", names::MAX_GUEST_MEMORY)
        });
        Self::within(bound.value, most_of_one(node.total_guest_memory.get()), bound.setting, names::TOTAL_GUEST_MEMORY)
    }

    /// One place at least is always the neighbours'.
    fn share(own: Option<u32>, node: &GuestSettings) -> Bound<u32> {
        let share = Self::count(own, node.guest_instances, "limits.instances", names::GUEST_INSTANCES);
        let most = node.max_instances.saturating_sub(1);
        let bound = if share.value <= most { share } else { Bound { value: most, setting: names::MAX_INSTANCES } };
        Bound { value: bound.value.max(1), ..bound }
    }

    fn within<T: Ord>(own: T, ceiling: T, own_key: &'static str, ceiling_key: &'static str) -> Bound<T> {
        if own <= ceiling {
            Bound { value: own, setting: own_key }
        } else {
            Bound { value: ceiling, setting: ceiling_key }
        }
    }

    fn span(own: Option<Span>, node: Span, own_key: &'static str, node_key: &'static str) -> Bound<Duration> {
        own.map_or(Bound { value: node.get(), setting: node_key }, |own| {
            Self::within(own.get(), node.get(), own_key, node_key)
        })
    }

    fn count(own: Option<u32>, node: u32, own_key: &'static str, node_key: &'static str) -> Bound<u32> {
        own.map_or(Bound { value: node, setting: node_key }, |own| Self::within(own, node, own_key, node_key))
    }
}
