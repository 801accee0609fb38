// SPDX-License-Identifier: GPL-2.0-only
/* Sensors for everyone's monitoring, while a runtime owns the card. */
#include <linux/hwmon.h>

#include "shim.h"

/* One row a file: channel 0 of temp is the die, the following are HBM stacks. */
struct jal_sensor {
	enum hwmon_sensor_types type;
	u32 attribute;
	int channel;
	u16 field;
	u32 scale;	/* hwmon units a unit of the page */
	u32 label;	/* the attribute that names it */
};

#define STACK(channel) { hwmon_temp, hwmon_temp_input, (channel), \
			 JALAPENO_HW_TELEMETRY_FIELD_HBM_TEMPERATURE, 1, hwmon_temp_label }

static const struct jal_sensor jal_sensors[] = {
	{ hwmon_temp, hwmon_temp_input, 0, JALAPENO_HW_TELEMETRY_FIELD_DIE_TEMPERATURE, 1,
	  hwmon_temp_label },
	{ hwmon_temp, hwmon_temp_max, 0, JALAPENO_HW_TELEMETRY_FIELD_THROTTLE_TEMPERATURE, 1 },
	{ hwmon_temp, hwmon_temp_crit, 0, JALAPENO_HW_TELEMETRY_FIELD_SHUTDOWN_TEMPERATURE, 1 },
	STACK(1), STACK(2), STACK(3), STACK(4), STACK(5), STACK(6),
	{ hwmon_power, hwmon_power_input, 0, JALAPENO_HW_TELEMETRY_FIELD_POWER, 1000,
	  hwmon_power_label },
	{ hwmon_power, hwmon_power_cap, 0, JALAPENO_HW_TELEMETRY_FIELD_POWER_LIMIT, 1000 },
	{ hwmon_energy, hwmon_energy_input, 0, JALAPENO_HW_TELEMETRY_FIELD_ENERGY, 1,
	  hwmon_energy_label },
};

static const char *const jal_temperatures[] = {
	"die", "hbm0", "hbm1", "hbm2", "hbm3", "hbm4", "hbm5",
};

static const struct jal_sensor *jal_sensor_of(enum hwmon_sensor_types type, u32 attribute,
					      int channel)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(jal_sensors); i++)
		if (jal_sensors[i].type == type && jal_sensors[i].channel == channel &&
		    (jal_sensors[i].attribute == attribute || jal_sensors[i].label == attribute))
			return &jal_sensors[i];
	return NULL;
}

static umode_t jal_is_visible(const void *data, enum hwmon_sensor_types type, u32 attribute,
			      int channel)
{
	const struct jal_sensor *sensor = jal_sensor_of(type, attribute, channel);
	const struct jal_device *jal = data;

	return sensor && test_bit(sensor - jal_sensors, &jal->sensors) ? 0444 : 0;
}

static int jal_read(struct device *dev, enum hwmon_sensor_types type, u32 attribute, int channel,
		    long *value)
{
	const struct jal_sensor *sensor = jal_sensor_of(type, attribute, channel);
	u64 raw;
	int ret;

	if (!sensor)
		return -EOPNOTSUPP;
	ret = jal_measure(dev_get_drvdata(dev), sensor->field, max(channel, 1) - 1, &raw);
	if (ret)
		return ret;
	/* No sensor means what lies outside: absolute zero and 1000 degrees; what fits. */
	if (type == hwmon_temp ? (s64)raw < -273150 || (s64)raw > 1000000 :
				 raw > LONG_MAX / sensor->scale)
		return -ENODATA;
	*value = (long)raw * sensor->scale;
	return 0;
}

static int jal_read_string(struct device *dev, enum hwmon_sensor_types type, u32 attribute,
			   int channel, const char **text)
{
	*text = type == hwmon_temp ? jal_temperatures[channel] : "card";
	return 0;
}

static const struct hwmon_ops jal_hwmon_ops = {
	.is_visible = jal_is_visible,
	.read = jal_read,
	.read_string = jal_read_string,
};

#define STACK_CONFIG (HWMON_T_INPUT | HWMON_T_LABEL)
static const struct hwmon_channel_info *jal_channels[] = {
	HWMON_CHANNEL_INFO(temp,
			   HWMON_T_INPUT | HWMON_T_LABEL | HWMON_T_MAX | HWMON_T_CRIT,
			   STACK_CONFIG, STACK_CONFIG, STACK_CONFIG,
			   STACK_CONFIG, STACK_CONFIG, STACK_CONFIG),
	HWMON_CHANNEL_INFO(power, HWMON_P_INPUT | HWMON_P_LABEL | HWMON_P_CAP),
	HWMON_CHANNEL_INFO(energy, HWMON_E_INPUT | HWMON_E_LABEL),
	NULL
};

static const struct hwmon_chip_info jal_chip = {
	.ops = &jal_hwmon_ops,
	.info = jal_channels,
};

int jal_hwmon_register(struct jal_device *jal)
{
	const struct jal_sensor *sensor;
	u64 raw;

	/* A sensor that has no data just now is there; one the card does not know is not. */
	for (sensor = jal_sensors; sensor < jal_sensors + ARRAY_SIZE(jal_sensors); sensor++)
		if (jal_measure(jal, sensor->field, max(sensor->channel, 1) - 1, &raw) !=
		    -EOPNOTSUPP)
			set_bit(sensor - jal_sensors, &jal->sensors);
	jal->hwmon = hwmon_device_register_with_info(&jal->core.pdev->dev, "jalapeno", jal,
						     &jal_chip, NULL);
	return PTR_ERR_OR_ZERO(jal->hwmon);
}
