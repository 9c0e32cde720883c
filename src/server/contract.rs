//! The public contract as OpenAPI 3.1 and AsyncAPI 3.0, generated from the types that the code itself uses.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use super::problem::Problem;
use super::{segments, transcode};
use crate::protocol::{BinaryHeader, ClientMessage, Receipt, SUBPROTOCOL, ServerMessage};

/// Schemas under `#/components/schemas`.
struct Schemas(SchemaGenerator);

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self(settings.into_generator())
    }

    fn of<T: JsonSchema>(&mut self) -> Value {
        self.0.subschema_for::<T>().to_value()
    }

    /// One query parameter for each field of an object.
    fn query<T: JsonSchema>(&mut self) -> Value {
        let object = T::json_schema(&mut self.0).to_value();
        let properties = object.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let parameter = |(name, schema): (String, Value)| {
            let description = schema.get("description").cloned().unwrap_or(Value::String(String::new()));
            json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema})
        };
        properties.into_iter().map(parameter).collect()
    }

    fn components(mut self) -> Value {
        Value::Object(self.0.take_definitions(true))
    }
}

/// The HTTP half.
pub fn openapi() -> Value {
    let mut schemas = Schemas::new();
    let problem = schemas.of::<Problem>();
    let receipt = schemas.of::<Receipt>();
    let spec = schemas.of::<segments::Spec>();
    let refusals = |extra: Value| {
        let mut responses = extra;
        for (status, why) in [
            ("400", "the request can't be read"),
            ("401", "no token, or one that is not taken; WWW-Authenticate says why"),
            ("403", "a page of an origin that is not allowed"),
            ("408", "the client sent nothing for too long"),
            ("413", "over a limit"),
            ("415", "container or codec not supported"),
            ("422", "bad media, or outputs that can't be made of it"),
            ("429", "the token's owner has as many sessions as it may; Retry-After says when to try again"),
            ("500", "a fault of the service"),
            ("503", "full or closing; Retry-After says when to try again"),
        ] {
            responses[status] =
                json!({"description": why, "content": {"application/problem+json": {"schema": problem}}});
        }
        responses
    };
    let media = json!({"*/*": {"schema": {"type": "string", "format": "binary"}}});
    let transcode = |schemas: &mut Schemas, id: &str| {
        json!({
            "operationId": id,
            "summary": "One output of a file or a live stream, streamed as it is made",
            "parameters": schemas.query::<transcode::Parameters>(),
            "requestBody": {"required": true, "content": media},
            "responses": refusals(json!({"200": {
                "description": "The output; the trailer segmill-summary holds the summary",
                "content": {"video/mp4": {}, "audio/mp4": {}, "video/mp2t": {}}}})),
        })
    };
    let (post, put) = (transcode(&mut schemas, "transcode"), transcode(&mut schemas, "transcodeUpload"));
    let segments = |schemas: &mut Schemas, id: &str| {
        json!({
            "operationId": id,
            "summary": "All outputs of one self-contained segment, and its receipt",
            "parameters": schemas.query::<segments::Parameters>(),
            "requestBody": {"required": true, "content": {
                "*/*": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {"schema": {"type": "object", "required": ["media"],
                    "properties": {"spec": spec, "media": {"type": "string", "format": "binary"}}}}}},
            "responses": refusals(json!({"200": {
                "description": "A part an output, last the receipt as application/json",
                "content": {"multipart/mixed": {"schema": {"type": "object", "properties": {"receipt": receipt}}}}}})),
        })
    };
    let (segments_post, segments_put) = (segments(&mut schemas, "segments"), segments(&mut schemas, "segmentsUpload"));
    let document = |id: &str, summary: &str, security: Value| {
        json!({"get": {"operationId": id, "summary": summary, "security": security, "responses":
            {"200": {"description": summary, "content": {"application/json": {"schema": {"type": "object"}}}}}}})
    };
    json!({
        "openapi": "3.1.0",
        "info": info("HTTP"),
        "paths": {
            "/v1/transcode": {"post": post, "put": put},
            "/v1/segments": {"post": segments_post, "put": segments_put},
            "/v1/capabilities": document(
                "capabilities", "Containers, codecs, elements, limits, versions", json!([{"bearer": []}, {}])),
            "/v1/openapi.json": document("openapi", "This document", json!([])),
            "/v1/asyncapi.json": document("asyncapi", "The WebSocket's contract", json!([])),
        },
        "components": {"schemas": schemas.components(), "securitySchemes": {"bearer": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "Where the service has keys: docs/protocol.md, tokens and origins"}}},
        // Either: a service without keys asks for none.
        "security": [{"bearer": []}, {}],
    })
}

/// The WebSocket half.
pub fn asyncapi() -> Value {
    let mut schemas = Schemas::new();
    let messages = json!({
        "client": {"summary": "Text from the client; the first is start", "payload": schemas.of::<ClientMessage>()},
        "media": {"summary": "Binary from the client: a byte for the channel (0), then bytes of the container, cut anywhere",
            "contentType": "application/octet-stream", "payload": {"type": "string", "format": "binary"}},
        "server": {"summary": "Text from the server", "payload": schemas.of::<ServerMessage>()},
        "binary": {"summary": "Binary from the server: a 4-byte big-endian length, a JSON header of that length, the payload",
            "contentType": "application/octet-stream", "payload": schemas.of::<BinaryHeader>()},
    });
    let operation = |action: &str, names: [&str; 2]| {
        let references = names.map(|name| json!({"$ref": format!("#/channels/stream/messages/{name}")}));
        json!({"action": action, "channel": {"$ref": "#/channels/stream"}, "messages": references})
    };
    json!({
        "asyncapi": "3.0.0",
        "info": info("WebSocket"),
        "defaultContentType": "application/json",
        "channels": {"stream": {
            "address": "/v1/stream",
            "description": format!("A WebSocket with the subprotocol {SUBPROTOCOL}"),
            "messages": messages,
            "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        }},
        "operations": {
            "receive": operation("receive", ["client", "media"]),
            "send": operation("send", ["server", "binary"]),
        },
        "servers": {"service": {"host": "localhost:8080", "protocol": "ws", "security": [
            {"$ref": "#/components/securitySchemes/header"}, {"$ref": "#/components/securitySchemes/subprotocol"}]}},
        "components": {"schemas": schemas.components(), "securitySchemes": {
            "header": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                "description": "Where the service has keys"},
            "subprotocol": {"type": "httpApiKey", "name": "Sec-WebSocket-Protocol", "in": "header",
                "description": "For browsers: a second offered subprotocol, bearer. and the token"}}},
    })
}

fn info(half: &str) -> Value {
    json!({
        "title": format!("Segmill, {half}"),
        "version": env!("CARGO_PKG_VERSION"),
        "license": {"name": "Apache-2.0"},
    })
}
