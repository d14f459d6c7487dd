//! ComfyUI's JSON shapes, events and binary websocket frames
