"""The report of a run: an HTML page, a JSON file, a model card and a table, all from one dict."""

from __future__ import annotations

from keras_kd.report.build import make_result as make_result
from keras_kd.report.build import model_result as model_result
from keras_kd.report.card import model_card as model_card
from keras_kd.report.compare_files import compare_files as compare_files
from keras_kd.report.compare_files import files_table as files_table
from keras_kd.report.derive import complete_result as complete_result
from keras_kd.report.files import merge as merge
from keras_kd.report.files import read_report as read_report
from keras_kd.report.files import write_report as write_report
from keras_kd.report.table import format_table as format_table
