"""The report of a run: one HTML page, one JSON file and one text table, all from one dict."""

from __future__ import annotations

from keras_kd.report.compare_files import compare_files as compare_files
from keras_kd.report.compare_files import files_table as files_table
from keras_kd.report.derive import complete_result as complete_result
from keras_kd.report.table import format_table as format_table
from keras_kd.report.write import write_report as write_report
