"""The evaluation transform of `export.preprocessing` as an ONNX graph.

Resizing is PyTorch's to the bit, apart from sums close to a half and the first reduction of large photos. ONNX's own
`Resize` has weights of more bits: up to a tenth of a photo's values differed by 1, and some networks' probabilities by
.02.
"""

from dogscats.data.pixels.images import LARGE
from dogscats.predict.export.preprocessing import ASPECT


def preprocessing_graph(size: int, fit: str, shrink: int, ir_version: int, opset: int) -> str:
    """Write `Preprocessing` in ONNX's text format, `photo` to `images`, for `onnx.parser.parse_model`.

    In vectors of two the height comes first; images are `(H, W, 3)`.

    Args:
        size: side of the square image, in pixels.
        fit: how photos become square: `crop`, `pad` or `squash`.
        shrink: short side in pixels that large photos are reduced to; 0 to leave them as they are.
        ir_version: version of the file format, that of the network to be merged with.
        opset: version of the operators, at least 18 for `antialias`.
    """
    return f"""
<ir_version: {ir_version}, opset_import: ["": {opset}, "photo": 1]>
preprocessing (uint8[H, W, 3] photo) => (uint8[1, 3, {size}, {size}] images)
{{
    zero = Constant <value_ints = [0]> ()
    two = Constant <value_ints = [2]> ()
    aspect = Constant <value_ints = [{ASPECT}]> ()
    size = Constant <value_ints = [{size}]> ()
    spatial = Constant <value_ints = [0, 1]> ()
    whole_pixels = Shape <end = 2> (photo)
    {_reduced(shrink) if shrink else NOT_REDUCED}
    short = ReduceMin <keepdims = 1> (pixels)
    most = Mul (short, aspect)
    kept = Min (pixels, most)
    {_center("pixels", "kept", "limited")}
    limited = Slice (image, limited_start, limited_end, spatial)
    {FITS[fit]}
    least = ReduceMin <keepdims = 1> (fitted_pixels)
    enlarged = Mul (fitted_pixels, size)
    resized_pixels = Div (enlarged, least)
    {_center("resized_pixels", "size", "result")}
    result = photo.Resize (fitted, resized_pixels, result_start, result_end)
    planes = Transpose <perm = [2, 0, 1]> (result)
    images = Unsqueeze (planes, zero)
}}
{RESIZE.format(opset=opset, powers=", ".join(str(2**power) for power in range(23)))}"""


CUBIC = 'mode = "cubic", cubic_coeff_a = -0.5'
"""PyTorch's cubic filter with antialiasing."""

NOT_REDUCED = """
    pixels = Identity (whole_pixels)
    image = Identity (photo)"""


def _reduced(side: int) -> str:
    powers = "".join(
        f"""
    needed_{power} = Constant <value_ints = [{2 * power * side}]> ()
    power_{power} = Constant <value_ints = [{power}]> ()
    times_{power} = Div (whole_short, needed_{power})
    enough_{power} = Min (times_{power}, one)
    halved_{power} = Mul (enough_{power}, power_{power})"""
        for power in (1, 2, 4)
    )
    return f"""
    first = Constant <value_ints = [1, 3]> ()
    one = Constant <value_ints = [1]> ()
    area = Constant <value_ints = [{LARGE}]> ()
    two_sides = Constant <value_ints = [{2 * side}]> ()
    whole_short = ReduceMin <keepdims = 1> (whole_pixels)
    whole_long = ReduceMax <keepdims = 1> (whole_pixels)
    whole_area = Mul (whole_short, whole_long)
    longest = Mul (whole_short, aspect)
    times_short = Div (whole_short, two_sides)
    times_area = Div (whole_area, area)
    times_long = Div (longest, whole_long)
    large = Min (one, times_short, times_area, times_long)
    {powers}
    quartered = Add (halved_1, halved_2)
    halved = Add (quartered, halved_4)
    halved_large = Mul (halved, large)
    factor = Add (halved_large, one)
    more_pixels = Add (whole_pixels, halved_large)
    decoded_pixels = Div (more_pixels, factor)
    whole_planes = Transpose <perm = [2, 0, 1]> (photo)
    whole = Unsqueeze (whole_planes, zero)
    {_cubic_resized("whole", "decoded_pixels", "decoded")}
    double = Mul (whole_pixels, two_sides)
    rounded = Add (double, whole_short)
    double_short = Mul (whole_short, two)
    target = Div (rounded, double_short)
    less = Sub (target, whole_pixels)
    change = Mul (large, less)
    pixels = Add (whole_pixels, change)
    {_cubic_resized("decoded", "pixels", "reduced_batch")}
    reduced_planes = Squeeze (reduced_batch, zero)
    image = Transpose <perm = [1, 2, 0]> (reduced_planes)"""


def _cubic_resized(image: str, pixels: str, result: str) -> str:
    # int outside have no weight, as in PyTorch: otherwise the borders differ by up to 13 of 255.
    return f"""
    {result}_shape = Concat <axis = 0> (first, {pixels})
    {result} = Resize <{CUBIC}, antialias = 1, exclude_outside = 1> ({image}, , , {result}_shape)"""


def _center(pixels: str, kept: str, result: str) -> str:
    return f"""
    {result}_gap = Sub ({pixels}, {kept})
    {result}_half = Div ({result}_gap, two)
    {result}_odd = Mod ({result}_half, two)
    {result}_even = Add ({result}_gap, {result}_odd)
    {result}_start = Div ({result}_even, two)
    {result}_end = Add ({result}_start, {kept})"""


FITS = {
    "crop": """
    fitted_pixels = Identity (kept)
    fitted = Identity (limited)""",
    "squash": """
    none = Constant <value_ints = [0, 0]> ()
    twice = Mul (size, two)
    square = Min (short, twice)
    fitted_pixels = Concat <axis = 0> (square, square)
    fitted = photo.Resize (limited, fitted_pixels, none, fitted_pixels)""",
    "pad": """
    single = Constant <value_ints = [1]> ()
    none = Constant <value_ints = [0, 0]> ()
    twice = Mul (size, two)
    long = ReduceMax <keepdims = 1> (kept)
    square = Min (long, twice)
    fitted_pixels = Concat <axis = 0> (square, square)
    scaled = Mul (kept, square)
    reduced_pixels = Div (scaled, long)
    reduced = photo.Resize (limited, reduced_pixels, none, reduced_pixels)
    missing = Sub (square, reduced_pixels)
    before = Div (missing, two)
    before_column = Unsqueeze (before, single)
    start = Squeeze (zero)
    end = Squeeze (square)
    step = Squeeze (single)
    numbers = Range (start, end, step)
    shifted = Sub (numbers, before_column)
    there_and_back = Mul (reduced_pixels, two)
    turns = Sub (there_and_back, two)
    period = Max (turns, single)
    period_column = Unsqueeze (period, single)
    wave = Mod (shifted, period_column)
    back = Sub (period_column, wave)
    reflected = Min (wave, back)
    rows = Gather <axis = 0> (reflected, start)
    columns = Gather <axis = 0> (reflected, step)
    tall = Gather <axis = 0> (reduced, rows)
    fitted = Gather <axis = 1> (tall, columns)""",
}
"""For each fit: from `limited`, of `kept` pixels, to the image `fitted`, of `fitted_pixels`."""

RESIZE = """
<domain: "photo", opset_import: ["": {opset}, "photo": 1]>
Resize (image, size, start, end) => (resized)
{{
    height, width = Split <num_outputs = 2> (size)
    top, left = Split <num_outputs = 2> (start)
    bottom, right = Split <num_outputs = 2> (end)
    columns = Transpose <perm = [1, 2, 0]> (image)
    resized_columns = photo.ResizeRows (columns, width, left, right)
    rows = Transpose <perm = [2, 0, 1]> (resized_columns)
    resized = photo.ResizeRows (rows, height, top, bottom)
}}
<domain: "photo", opset_import: ["": {opset}]>
ResizeRows (image, size, start, end) => (resized)
{{
    zero = Constant <value = double {{0}}> ()
    half = Constant <value = double {{0.5}}> ()
    one = Constant <value = double {{1}}> ()
    two = Constant <value = double {{2}}> ()
    first = Constant <value_ints = [0]> ()
    second = Constant <value_ints = [1]> ()
    given_size = Shape <end = 1> (image)
    given_scalar = Squeeze (given_size)
    given = Cast <to = 11> (given_scalar)
    wanted_scalar = Squeeze (size)
    wanted = Cast <to = 11> (wanted_scalar)
    scale = Div (given, wanted)
    support = Max (scale, one)

    middles = Range (half, wanted, one)
    middles_column = Unsqueeze (middles, second)
    centers = Mul (middles_column, scale)
    reach = Sub (centers, support)
    reached = Add (reach, half)
    lowest = Floor (reached)
    from_row = Max (lowest, zero)
    radius = Ceil (support)
    diameter = Mul (radius, two)
    most_rows = Add (diameter, one)
    numbers = Range (zero, most_rows, one)
    rows = Add (from_row, numbers)

    gap = Sub (rows, centers)
    gap_of_middles = Add (gap, half)
    distance = Abs (gap_of_middles)
    narrowing = Div (one, support)
    relative = Mul (distance, narrowing)
    falling = Sub (one, relative)
    triangle = Relu (falling)
    inside = Less (rows, given)
    raw_weights = Where (inside, triangle, zero)
    sums = ReduceSum (raw_weights, second)
    weights = Div (raw_weights, sums)

    powers = Constant <value = double[23] {{{powers}}}> ()
    overflow = Constant <value = double {{32767.5}}> ()
    largest = ReduceMax <keepdims = 0> (weights)
    largest_integers = Mul (powers, largest)
    fits = Less (largest_integers, overflow)
    fitting = Where (fits, powers, zero)
    power = ReduceMax <keepdims = 0> (fitting)
    scaled = Mul (weights, power)
    scaled_up = Add (scaled, half)
    integers = Floor (scaled_up)
    fixed_point = Div (integers, power)

    kept_weights = Slice (fixed_point, start, end, first)
    float_weights = Cast <to = 1> (kept_weights)
    row_vectors = Unsqueeze (float_weights, second)
    last = Sub (given, one)
    existing = Min (rows, last)
    kept_rows = Slice (existing, start, end, first)
    indices = Cast <to = 7> (kept_rows)
    gathered = Gather <axis = 0> (image, indices)
    flat = Constant <value_ints = [0, 0, -1]> ()
    gathered_flat = Reshape (gathered, flat)
    pixels = Cast <to = 1> (gathered_flat)
    means = MatMul (row_vectors, pixels)
    float_half = Cast <to = 1> (half)
    means_up = Add (means, float_half)
    rounded = Floor (means_up)
    bytes = Cast <to = 2> (rounded)
    any = Constant <value_ints = [-1]> ()
    others = Shape <start = 1> (image)
    shape = Concat <axis = 0> (any, others)
    resized = Reshape (bytes, shape)
}}"""
"""Resize to `size` as PyTorch does for uint8 (`upsample_avx_bilinear_bicubic_uint8`), and keep `start` to `end` of it.

Columns come first, then rows, and the values between are whole numbers, too. Each value is the mean of the `rows` that
a triangle reaches, `support` to both sides. The weights are integers of 16 bits, divided by the largest of `powers`
that fits all rows, kept or not. Only rows that have a weight are multiplied: with a matrix of all weights, photos of
12 megapixels took 4 times as long.
"""
