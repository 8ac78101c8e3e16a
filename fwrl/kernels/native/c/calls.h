/* The argument of each function: inputs, and buffers for its results. The modules in ..
   declare the same fields; a test compares them. Every field takes eight bytes.

   B T H: streams, times, heads; N = ceil(T / interval). Tensors lie without gaps, unless they are a
   `Sequence`. `saved for backward` is null where no backward pass follows. from_x and to_x are only
   in the backward pass: the gradients of the outputs, and of the inputs. */
#ifndef FWRL_CALLS_H
#define FWRL_CALLS_H

#include <stdint.h>

/* The first fields of every loop over time. */
typedef struct {
    /* B T H; one head where there are none */
    int64_t streams, times, heads;
    /* time steps between two states that are saved for backward */
    int64_t interval;
    int64_t threads;
    /* [B T]: where an episode starts; null: nowhere */
    const uint8_t *starts;
} Loop;

/* Numbers [B T H size]; the last axis has no gaps, the strides are in floats. */
typedef struct {
    float *data;
    int64_t stream, time, head;
} Sequence;

typedef struct {
    Loop loop;
    /* K V, and how many fresh states there are: 0 (zeros), 1 (for all) or B */
    int64_t keys, values, fresh_streams;
    /* [B T H K], [B T H K], [B T H V] */
    Sequence query, key, value;
    /* [B T H]; null: 1 everywhere */
    const float *beta, *decay;
    /* [B H K V], and what episodes begin with */
    const float *state, *fresh;
    /* whether the error is written, not the value */
    int64_t removes;
    /* [B T H V], [B H K V] */
    float *output, *end;
    /* saved for backward. [B T H V]: what was written, before beta (null if that is the value);
       [B H N K V]: the states at every interval, before what starts there */
    float *error, *checkpoints;
    const float *from_output, *from_end;
    /* null where there is no such input */
    float *to_query, *to_key, *to_value, *to_beta, *to_decay, *to_state;
    /* [B H K V], to be summed over the streams that share a fresh state */
    float *to_fresh;
} Scan;

/* The same with a decay for each key feature. */
typedef struct {
    Loop loop;
    int64_t keys, values, fresh_streams;
    /* [B T H K] but for the value; where what is removed is looked up, before the decay */
    Sequence query, key, value, look, decay;
    /* [B T H K]: where it is taken from; null: from the key */
    const float *taken;
    const float *state, *fresh;
    float *output, *end;
    /* saved for backward: what was removed [B T H V], and the states as in a scan */
    float *removed, *checkpoints;
    const float *from_output, *from_end;
    float *to_query, *to_key, *to_value, *to_look, *to_decay, *to_taken, *to_state;
    float *to_fresh;
} ChannelScan;

/* A scan from the projections of a layer on. */
typedef struct {
    Loop loop;
    /* K V, floats of the projections of a time, and fresh states as in a scan */
    int64_t keys, values, row, fresh_streams;
    /* [B T row]: the queries of all heads, the keys, the values, and beta before its sigmoid and
       without its bias [H]; no bias: no beta, and no numbers for it */
    const float *projected, *bias;
    /* [B T H]; null: 1 everywhere */
    const float *decay;
    /* [B H K V], and what episodes begin with */
    const float *state, *fresh;
    int64_t removes;
    /* added to the squared length of an address; what the sigmoid of beta is multiplied by */
    double epsilon, max_beta;
    /* as those of a scan */
    float *output, *end;
    float *error, *checkpoints;
    const float *from_output, *from_end;
    float *to_projected, *to_decay, *to_state;
    float *to_fresh;
} ProjectedScan;

/* A depthwise convolution over the last times of an episode. */
typedef struct {
    Loop loop;
    /* how many times it sees, the present among them; its channels; floats of a time */
    int64_t size, channels, row;
    /* [B T row]: the channels, and what is only copied; [size channels], the weights of the present
       first; [B size-1 channels]: what was before */
    const float *input, *weight, *recent;
    /* the first channel of which SiLU is taken */
    int64_t silu_from;
    /* [B T row], and the last times [B size-1 channels], which are 0 before the episode */
    float *output, *end;
    const float *from_output, *from_end;
    float *to_input, *to_recent;
    /* [B size channels], to be summed over the streams */
    float *to_weights;
} Convolution;

/* One time step of a scan without gradients, from the projections on. */
typedef struct {
    Loop loop;
    /* K V, and floats from one stream's projections to the next */
    int64_t keys, values, row;
    int64_t removes;
    /* added to the squared length of an address; what the sigmoid of beta is multiplied by */
    double epsilon, max_beta;
    /* [B row]: the queries of all heads, then the keys, then the values */
    const float *projected;
    /* [B H]: beta before its sigmoid, and decay; null: 1 */
    const float *logit, *decay;
    /* [B H K V] */
    const float *state;
    /* [B H V], [B H K V] */
    float *output, *end;
} Act;

/* One layer of a residual stack: fast weights, and then a feed-forward network. */
typedef struct {
    /* numbers of a stream, and hidden units */
    int64_t width, hidden;
    /* H K V */
    int64_t heads, keys, values;
    /* whether the error is written; how reads are normalised: not, by their root mean square, or
       by their mean and deviation */
    int64_t removes, output_norm;
    /* how many times a short convolution of the projections sees; 0: there is none */
    int64_t convolution;
    /* as in `Act` */
    double address_epsilon, max_beta;
    /* added to variances: of the core's input, of reads, of the feed-forward network's input */
    double core_epsilon, output_epsilon, epsilon;
    /* [width]; [H (2 K + V) width]; [convolution H (2 K + V)], the weights of the present first */
    const float *core_scale, *core_shift, *project, *mix;
    /* [H width], [H]; null: 1 */
    const float *beta, *beta_bias;
    /* [H width], [H], [H]: the decay is exp(-rate softplus(step x + step_bias)); null: 1 */
    const float *step, *log_rate, *step_bias;
    /* [V], [width H V] */
    const float *output_scale, *output;
    /* [width]; [hidden width], [hidden]; [width hidden], [width] */
    const float *scale, *shift, *widen, *widen_bias, *narrow, *narrow_bias;
} Layer;

/* A linear map: weight [outputs width], bias [outputs]. */
typedef struct {
    int64_t outputs;
    const float *weight, *bias;
} Map;

/* One of several arrays. */
typedef float *Numbers;

/* One time of a residual stack without gradients, and of linear maps before and after it. */
typedef struct {
    Loop loop;
    /* numbers of a stream, and of the input; how many layers, and maps of the output */
    int64_t width, inputs, layers, maps;
    /* added to the variance of the stream after all layers */
    double epsilon;
    /* [B inputs]; the map before the stack, [width inputs] and [width], or null */
    const float *input, *before, *before_bias;
    const Layer *layer;
    /* [width] */
    const float *scale, *shift;
    const Map *map;
    /* of each layer, before and after: [B H K V]; [B convolution-1 H (2 K + V)], the last projections,
       null where there is no convolution */
    const Numbers *states, *ends, *recents, *recent_ends;
    /* of each map, [B outputs], or without maps only the normed stream, [B width] */
    const Numbers *outputs;
} Residual;

typedef struct {
    Loop loop;
    int64_t size;
    /* [B T 3E], [3E E], [3E]: reset gate, update gate and candidate after one another */
    const float *projected, *recurrent, *bias;
    /* [B E] */
    const float *hidden;
    /* [B T E] */
    float *output;
    /* saved for backward. [B T 3E]: the gates and the candidate after their nonlinearities;
       [B T E]: the recurrent part of the candidate, before it is reset */
    float *gates, *inner;
    const float *from_output;
    float *to_projected, *to_hidden;
    /* [B T 3E]: the gradient of the product with the recurrent weights, plus bias */
    float *to_recurrent_part;
} GRU;

typedef struct {
    Loop loop;
    int64_t size;
    /* [B T 4E], [4E E]: the gates input, forget, cell and output after one another */
    const float *projected, *recurrent;
    /* [B E] */
    const float *hidden, *cell;
    /* added to the forget gate before its sigmoid */
    double forget_bias;
    /* [B T E], [B E] */
    float *output, *end_cell;
    /* saved for backward. [B T 4E]: the gates after their nonlinearities; [B T E]: the cells */
    float *gates, *cells;
    const float *from_output, *from_end_cell;
    float *to_projected, *to_hidden, *to_cell;
} LSTM;

typedef struct {
    Loop loop;
    int64_t size;
    /* [B T H P], [H K P]; P = 3 K + 1: query, key, value and beta */
    const float *projected, *recurrent;
    /* [B H K K], [B H K] */
    const float *state, *last;
    /* [B T H K], [B H K K] */
    float *output, *end;
    /* saved for backward. [B T H P]: query, key, error (what was written before beta) and beta;
       [B H N K K]: the states at every interval, before what starts there */
    float *written, *checkpoints;
    const float *from_output, *from_end;
    float *to_projected, *to_state, *to_last;
} RecurrentDelta;

typedef struct {
    Loop loop;
    /* K, and G H: the matrices of all heads for the first gate, then those for the next. G is 1
       (RNN) or 3 (LSTM) */
    int64_t size, matrices;
    /* [B T GH K]: what is added to what the recurrent weights read, and what is written there */
    const float *read, *key, *value;
    /* [B T GH] */
    const float *beta;
    /* [B GH K K]; [B H K]: the last output and, of the LSTM, the cells */
    const float *state, *last, *cell;
    /* [B T H K], [B GH K K], [B H K] */
    float *output, *end, *end_cell;
    /* saved for backward. [B T GH K]: what was written before beta, and, of the LSTM, the gates;
       [B T H K]: its cells; [B GH N K K]: the states at every interval, before what starts there */
    float *error, *gates, *cells, *checkpoints;
    const float *from_output, *from_end, *from_end_cell;
    float *to_read, *to_key, *to_value, *to_beta, *to_state, *to_last, *to_cell;
} FastRecurrence;

typedef struct {
    Loop loop;
    /* V and P; K = V V: a key is the product of two vectors */
    int64_t size, path_length;
    /* [B T 3 V]: both parts of the key, and the value; [B T]; [B T P V]: where the chain of reads
       begins, and the edges that it takes */
    const float *triple, *beta, *path;
    /* [B K V] */
    const float *state;
    /* [B T V], [B K V] */
    float *output, *end;
    /* saved for backward. [B T V]: what was written before beta; [B T P-1 V]: each read before it was
       normalised; [B T]: what the weights are scaled by after the write; [B N K V]: the weights at
       every interval, before they are scaled and before what starts there */
    float *error, *found, *scale, *checkpoints;
    const float *from_output, *from_end;
    float *to_triple, *to_beta, *to_path, *to_state;
} FastWeightMemory;

typedef struct {
    Loop loop;
    int64_t size;
    /* [B T H K], [B H K V]; V = 3 K + 4: output, query, key and four betas */
    const float *address, *state;
    /* [H K V]: what episodes begin with */
    const float *fresh;
    /* [B T H K], [B H K V] */
    float *output, *end;
    /* saved for backward. [B T H V]: what was read, after softmax and sigmoid, and the difference
       that is written; [B H N K V]: the states at every interval, before what starts there */
    float *columns, *change, *checkpoints;
    const float *from_output, *from_end;
    float *to_address, *to_state;
    /* [B H K V], to be summed over the streams */
    float *to_fresh;
} SelfReferential;

/* The norm of each row of a sum, and its backward pass. All arrays are [rows width] or [width]. */
typedef struct {
    int64_t rows, width, threads;
    double epsilon;
    /* `sum` <- input + added + bias, where `added` (in whose place it may be) and bias may be null;
       with neither, the sum is the input, and `sum` is not written */
    const float *input, *added, *bias;
    float *sum;
    const float *scale, *shift;
    float *output;
    /* saved for backward, [rows]: the means, and one over the deviations */
    float *mean, *inverse;
    /* added to the gradient of the sum, which may take its place; null: nothing */
    const float *from_output, *from_sum;
    /* [width]: `to_bias` is the sum over the rows of `to_sum` */
    float *to_sum, *to_scale, *to_shift, *to_bias;
} SumNorm;

/* GELU of rows [rows width] plus a bias, in place of them its slope; backward the gradient in place
   of `output`, and its sum over the rows. */
typedef struct {
    int64_t rows, width, threads;
    float *rows_in;
    const float *bias;
    float *output;
    float *to_bias;
} BiasGelu;

/* Random choices, one for each factor. */
typedef struct {
    /* B A n */
    int64_t streams, factors, choices;
    /* [B A n]; the noise is exponential */
    const float *log_probs, *noise;
    /* [B A], and the sum of the log-probabilities of the choices, [B] */
    int64_t *action;
    float *log_prob;
} Draw;

/* A step of Adam along the joint gradient of several arrays, clipped to the norm `longest`. If that
   gradient is not finite, only `norm` is filled. */
typedef struct {
    int64_t arrays;
    int64_t threads;
    double rate, mean_decay, square_decay, epsilon, longest;
    /* numbers of each array */
    const int64_t *sizes;
    /* of each array: the parameters, their gradient, its running mean and that of its square, and
       the number of steps so far */
    const Numbers *values, *gradients, *means, *squares, *times;
    /* of the joint gradient before it is clipped */
    float *norm;
} Adam;

/* Many vectors, each scaled to unit length after SiLU. */
typedef struct {
    /* how many vectors, and of how many numbers each */
    int64_t count, size;
    /* vectors between two gaps, and floats from one such group to the next */
    int64_t group, stride;
    int64_t threads;
    /* added to the squared length */
    double epsilon;
    const float *input;
    float *output;
    const float *from_output;
    float *to_input;
} UnitSilu;

#endif
