// Vectors as rows of one Float32Array: cosine, nearest, and the plane on which they differ most.

/** The same rows at unit length, in place; a row of zeros, or one that is no number (a row that failed), becomes zeros. */
export function normalize(matrix, dimensions) {
  for (let start = 0; start < matrix.length; start += dimensions) {
    let square = 0;
    for (let i = start; i < start + dimensions; i++) square += matrix[i] * matrix[i];
    const factor = square > 0 && Number.isFinite(square) ? 1 / Math.sqrt(square) : 0;
    for (let i = start; i < start + dimensions; i++) matrix[i] = factor === 0 ? 0 : matrix[i] * factor;
  }
  return matrix;
}

/** One Float32Array of many arrays of the same length. */
export function stack(rows) {
  const dimensions = rows[0]?.length ?? 0;
  const matrix = new Float32Array(rows.length * dimensions);
  rows.forEach((row, number) => matrix.set(row, number * dimensions));
  return matrix;
}

/** Scalar products of each row of a with each of b: Float32Array [rows of a x rows of b]. Of unit vectors: cosines. */
export function products(a, b, dimensions) {
  const [rows, columns] = [a.length / dimensions, b.length / dimensions];
  const found = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      let sum = 0;
      for (let i = 0, x = row * dimensions, y = column * dimensions; i < dimensions; i++) sum += a[x + i] * b[y + i];
      found[row * columns + column] = sum;
    }
  return found;
}

/** [{row, score}] of the rows that are most like a question, the best first. */
export function nearest(matrix, question, dimensions, count, isThere = () => true) {
  const scores = products(question, matrix, dimensions);
  return Array.from(scores, (score, row) => ({ row, score }))
    .filter(({ row }) => isThere(row))
    .sort((a, b) => b.score - a.score || a.row - b.row)
    .slice(0, count);
}

/**
 * Principal components: {points: Float32Array [rows x 2], shares: [of the variance each]}. By power iteration, the second
 * in what the first leaves over. The same rows give the same picture: it begins with fixed numbers, and signs are settled.
 */
export function project(matrix, dimensions, { iterations = 100, tolerance = 1e-7 } = {}) {
  const rows = matrix.length / dimensions;
  const mean = new Float64Array(dimensions);
  for (let i = 0; i < matrix.length; i++) mean[i % dimensions] += matrix[i] / rows;
  let variance = 0;
  for (let i = 0; i < matrix.length; i++) variance += (matrix[i] - mean[i % dimensions]) ** 2;
  const points = new Float32Array(rows * 2);
  const axes = [];
  const shares = [];
  for (let component = 0; component < 2; component++) {
    let axis = unit(without(begin(dimensions, component), axes));
    let along = new Float64Array(rows);
    for (let turn = 0; turn < iterations; turn++) {
      along = coordinates(matrix, mean, axis);
      const next = new Float64Array(dimensions);
      for (let row = 0, at = 0; row < rows; row++) for (let i = 0; i < dimensions; i++, at++) next[i] += along[row] * (matrix[at] - mean[i]);
      const turned = unit(without(next, axes));
      const change = 1 - Math.abs(dot(axis, turned));
      axis = turned;
      if (change < tolerance) break;
    }
    along = coordinates(matrix, mean, axis);
    if (axis[largest(axis)] < 0) {
      axis = axis.map((value) => -value);
      along = along.map((value) => -value);
    }
    along.forEach((value, row) => (points[row * 2 + component] = value));
    shares.push(variance > 0 ? along.reduce((sum, value) => sum + value * value, 0) / variance : 0);
    axes.push(axis);
  }
  return { points, shares };
}

function begin(dimensions, seed) {
  return Float64Array.from({ length: dimensions }, (_, i) => Math.sin((i + 1) * (seed + 1) * 12.9898));
}

function coordinates(matrix, mean, axis) {
  const dimensions = axis.length;
  const along = new Float64Array(matrix.length / dimensions);
  for (let row = 0, at = 0; row < along.length; row++) for (let i = 0; i < dimensions; i++, at++) along[row] += (matrix[at] - mean[i]) * axis[i];
  return along;
}

function without(vector, axes) {
  for (const axis of axes) {
    const part = dot(vector, axis);
    vector = vector.map((value, i) => value - part * axis[i]);
  }
  return vector;
}

function unit(vector) {
  const length = Math.sqrt(dot(vector, vector));
  return length > 1e-12 ? vector.map((value) => value / length) : vector.fill(0);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function largest(vector) {
  return vector.reduce((best, value, i) => (Math.abs(value) > Math.abs(vector[best]) ? i : best), 0);
}
