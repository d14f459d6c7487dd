//! Small systems of linear equations. Knows no sampler.

/// The solution of `matrix * x = right`, by elimination with row exchanges; none if the matrix is singular.
pub(super) fn solve(matrix: Vec<Vec<f32>>, right: Vec<f32>) -> Option<Vec<f32>> {
    let n = right.len();
    let mut matrix: Vec<Vec<f64>> = matrix.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect();
    let mut right: Vec<f64> = right.into_iter().map(f64::from).collect();
    for column in 0..n {
        let pivot = (column..n).max_by(|a, b| matrix[*a][column].abs().total_cmp(&matrix[*b][column].abs()))?;
        if matrix[pivot][column] == 0.0 || !matrix[pivot][column].is_finite() {
            return None;
        }
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        let (above, below) = matrix.split_at_mut(column + 1);
        let pivot_row = &above[column];
        for (row, values) in below.iter_mut().enumerate() {
            let factor = values[column] / pivot_row[column];
            for (value, pivot) in values[column..].iter_mut().zip(&pivot_row[column..]) {
                *value -= factor * pivot;
            }
            right[column + 1 + row] -= factor * right[column];
        }
    }
    let mut solution = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|k| matrix[row][k] * solution[k]).sum();
        solution[row] = (right[row] - known) / matrix[row][row];
    }
    Some(solution.into_iter().map(|value| value as f32).collect())
}
