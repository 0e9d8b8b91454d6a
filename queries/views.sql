-- Views and macros over the tables of a store. The tables themselves (runs, generations, tokens, embeddings, gradients,
-- activation_vectors) are views of their Parquet files, made from the snapshot before this script runs.

create schema by_token;

-- One row a value, from the token-major vectors: filters on generation_id and layer reach the Parquet files.
create view by_token.activations as
select
    generation_id,
    position,
    layer,
    (generate_subscripts(activation, 1) - 1)::integer as neuron,
    unnest(activation) as activation
from activation_vectors;

create view activations as
select generation_id, position, layer, neuron, activation
from by_token.activations;

-- Scores of every (output position, input position); sums are taken in double precision.
--   grad_x_input     the L2 norm of gradient times embedding, element by element
--   grad_norm        the L2 norm of the gradient
--   grad_dot_input   the signed sum of gradient times embedding
--   grad_x_input_l1  the sum of absolute values of gradient times embedding
-- A share is the score over the sum of the row's absolute scores; 0 where all of them are 0.
create macro saliency_by(method) as table
with scored as (
    select
        gradients.generation_id,
        output_position,
        input_position,
        case method
            when 'grad_x_input' then sqrt(list_inner_product(
                list_transform(gradient, lambda g: g::double * g),
                list_transform(embedding, lambda e: e::double * e)
            ))
            when 'grad_norm' then sqrt(list_inner_product(gradient::double[], gradient::double[]))
            when 'grad_dot_input' then list_inner_product(gradient::double[], embedding::double[])
            when 'grad_x_input_l1' then list_inner_product(
                list_transform(gradient, lambda g: abs(g::double)),
                list_transform(embedding, lambda e: abs(e::double))
            )
            else error('no saliency method ' || method || '; choose grad_x_input, grad_norm, grad_dot_input or grad_x_input_l1')
        end as score
    from gradients
    join embeddings
        on embeddings.generation_id = gradients.generation_id
        and embeddings.position = input_position
)
select
    generation_id,
    output_position,
    input_position,
    score,
    coalesce(
        score / nullif(sum(abs(score)) over (partition by generation_id, output_position), 0),
        0
    ) as share
from scored;

create view saliency as
select generation_id, output_position, input_position, score, share
from saliency_by('grad_x_input');
