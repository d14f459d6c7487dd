//! Expressions of numbers that other nodes give.

use std::collections::HashMap;

use comfyd_node::{Error, Grow, Input, NodeOutput, Result, Schema, Value};

use super::arithmetic::Number;
use super::expression::evaluate;
use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[Class::new(
    || {
        let value = Input::link("value", "FLOAT,INT,BOOLEAN").tooltip("A number.");
        Schema::new("ComfyMathExpression")
            .display("Math Expression")
            .category("utilities")
            .module("comfy_extras.nodes_math")
            .schema_generation()
            .description(
                "Computes with numbers, as Python writes it: a + b * 2, max(a, b), a if b > 3 else c, sum(values). The results are the same number \
                 with fractions, without, and whether it is not 0.",
            )
            .aliases(["arithmetic", "compute", "equation", "numbers"])
            .input(Input::text("expression").default("a + b").multiline().tooltip("What is computed; a, b, … are the numbers connected."))
            .input(Input::grow("values", Grow::listed(value, ('a'..='z').map(String::from))))
            .output("FLOAT")
            .output("INT")
            .output_named("BOOLEAN", "BOOL")
    },
    compute,
)];

fn compute(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let mut names = HashMap::new();
    let mut values = Vec::new();
    for (name, value) in call.inputs.group("values").iter() {
        let number = match value {
            Value::Bool(yes) => Number::Bool(*yes),
            Value::Int(int) => Number::Int(*int),
            Value::Float(float) => Number::Float(*float),
            other => {
                let (name, got) = (format!("values.{name}"), other.type_name().into());
                return Err(Error::WrongType { name, got, wanted: "a number".into() });
            }
        };
        values.push(number.clone());
        names.insert(name.to_owned(), number);
    }
    names.insert("values".into(), Number::List(values));
    let result = evaluate(call.text("expression")?, &names).map_err(Error::Failed)?;
    let (float, int) = match result {
        Number::Bool(yes) => (f64::from(u8::from(yes)), i128::from(yes)),
        Number::Int(int) => (int as f64, int),
        Number::Float(float) if float.is_finite() => (float, float as i128),
        Number::Float(float) => return Err(Error::msg(format!("the expression gives {float}, which is not finite"))),
        Number::List(_) => return Err(Error::msg("the expression gives a list; let it give one number, such as values[0]")),
    };
    Ok(NodeOutput::values([float.into(), int.into(), result.truth().into()]))
}
